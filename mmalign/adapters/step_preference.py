"""Step-aware preference model: CLIP that compares what a denoiser predicts from noisy pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from mmalign._build import build_named
from mmalign._names import KINDS, class_of
from mmalign.adapters.reward_head import naming_the_backbone
from mmalign.types import Kind, UserError

if TYPE_CHECKING:
    from mmalign.adapters._step_preference import StepPreferenceAdapter

_PLAIN: Mapping[str, Any] = {
    "caption_dropout": 0.0, "num_draws": 1, "weighting": "none", "gamma": None, "error_space": "native",
    "segments": None, "user": None, "zero_terminal_snr": False,
}  # fmt: skip
"""Fields of the denoiser's section that change no prediction here, or leave none to be made."""


@dataclass(frozen=True)
class StepPreference:
    """SPO's preference model (arXiv 2406.04314): both pictures of a pair get the same noise at one drawn
    level, a frozen diffusion model denoises each in one step, and a CLIP model that is told the level scores
    what comes out, exp(logit scale) cos(picture, caption).

    Every weight of the CLIP model trains. What a run writes is loaded by the judge of this name. A folder
    without a conditioning on timesteps, as PickScore's, is given one under which it scores as it did.
    Objective `bt` with `ties: label` is the published loss, but for ln 2, which a tied pair has more; a row's
    `weight` of 1 / rows of its prompt is the published weight.
    """

    kind: ClassVar[Kind] = "reward"
    offers: ClassVar[frozenset[str]] = frozenset({"reward"})
    media: ClassVar[frozenset[str]] = frozenset()
    aspects: ClassVar[tuple[str, ...]] = ("score",)

    path: str  # transformers CLIP folder or hub id, as yuvalkirstain/PickScore_v1
    denoiser: dict[str, Any]  # adapter: diffusion, path: ...; whose rounds are to be judged; frozen
    checkpoint: str | None = None  # file of the authors' training code to go on from
    processor: str | None = None  # tokenizer and preprocessor, if not in the folder
    guidance: float = 5.0  # of the one step
    seed: int = 0  # of a fresh embedding of timesteps

    def __post_init__(self) -> None:
        for name in ("path", "checkpoint", "processor"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise ValueError(f"{name}: must not be empty")
        if self.guidance < 0:
            raise ValueError(f"guidance: must be 0 or more, got {self.guidance}")
        whole = {"adapter": self.denoiser.get("adapter"), **dataclasses.asdict(self.part)}
        object.__setattr__(self, "denoiser", whole)  # defaults written out, as in every other section

    @cached_property
    def part(self) -> Any:
        """The denoiser's own config. Raises UserError for another adapter and for what is not read of it."""
        name = self.denoiser.get("adapter")
        if not isinstance(name, str) or ":" in name:
            raise UserError("denoiser.adapter: name the adapter that denoises, diffusion")
        cls: Any = class_of(KINDS["model"], name, "denoiser")
        if "transition" not in cls.offers:
            raise UserError(f"denoiser.adapter: {name} denoises nothing; use diffusion")
        found = build_named(KINDS["model"], self.denoiser, "denoiser", allow_code=False)
        for field, value in _PLAIN.items():
            if getattr(found, field) != value:
                raise UserError(
                    f"denoiser.{field}: one draw denoised in one step has no use for it; remove it"
                )
        return found

    def at(self, folder: str) -> StepPreference:
        """The same model as it lies in another folder, where everything is beside it."""
        return dataclasses.replace(self, path=folder, checkpoint=None, processor=None)

    def glance(self) -> None:
        """Raise UserError where the denoiser is plainly not where it should be, before any row is read."""
        with naming_the_backbone(self.part, "denoiser"):
            self.part.glance()

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> StepPreferenceAdapter:
        """Load both models, the one that trains in float32; `dtype` is for the denoiser, where its section
        has none. Raises UserError for what cannot be had."""
        from mmalign.adapters._step_preference import StepPreferenceAdapter

        judge: Any = class_of(KINDS["judge"], "step_preference")
        chosen = judge(self.path, checkpoint=self.checkpoint, processor=self.processor)
        try:
            towers = chosen.towers(device, self.seed)
        except UserError as error:
            raise UserError(str(error).replace(f"{chosen.label}: ", "model.", 1)) from error
        with naming_the_backbone(self.part, "denoiser"):
            return StepPreferenceAdapter(self, towers, self.part.build(device, dtype))
