"""What the adapters for models that look have in common in a config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from mmalign.adapters._text_sampling import Sampling
from mmalign.types import Frames, Kind

if TYPE_CHECKING:
    from mmalign.adapters._vision_lm import VisionLM

Scope = Literal["language", "projector", "vision"]


@dataclass(frozen=True)
class VisionOptions:
    """A model that reads pictures (and clips) in the prompt and answers in text."""

    kind: ClassVar[Kind] = "exact"
    offers: ClassVar[frozenset[str]] = frozenset(
        {"ratio", "length", "absolute", "probability", "units", "tokens", "distribution", "hidden"}
    )

    path: str  # folder or hub id
    revision: str | None = None  # of a hub id
    # of frozen weights; auto: as the files have it; null: bfloat16 under LoRA with train.precision bf16
    dtype: Literal["float32", "bfloat16", "auto"] | None = None
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"  # auto: sdpa where it exists
    trains: tuple[Scope, ...] = ("language",)  # parts that train, or that take LoRA; the others are frozen
    max_length: int | None = None  # tokens of media, prompt and response; null: what the model can place
    # what becomes of rows above max_length; media and prompt are never cut
    over_long: Literal["refuse", "cut_response"] = "refuse"
    append_eos: bool = True  # after responses that no chat template ends; the end token is scored
    # a prompt that is plain text: as one user turn of the chat template, or as it stands
    plain_prompts: Literal["chat", "raw"] = "chat"
    # least pixels of a picture after resizing, for processors that keep the native resolution; null: as the
    # checkpoint says
    min_pixels: int | None = None
    # most pixels of a picture after resizing, for the same; null: as the checkpoint says
    max_pixels: int | None = None
    # tiles that a picture is cut into at most, where the processor cuts; null: as the checkpoint says
    max_tiles: int | None = None
    allow_pickle: bool = False  # also accept .bin weights, read by torch's restricted unpickler
    generation: Sampling = field(default_factory=Sampling)  # how answers are sampled

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError("path: must name a folder or hub id, got an empty string")
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"max_length: must be 2 or more, got {self.max_length}")
        if not self.trains or len(set(self.trains)) < len(self.trains):
            raise ValueError(f"trains: must name each part once and at least one, got {list(self.trains)}")
        for name in ("min_pixels", "max_pixels", "max_tiles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be 1 or more, got {value}")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels: must be at most max_pixels {self.max_pixels}, got {self.min_pixels}"
            )

    @property
    def clips(self) -> Frames | None:
        """How clips are cut from videos; None reads none."""
        return None

    def glance(self, below_head: bool = False) -> None:
        """Raise UserError where the folder is plainly no model that looks with its weights, before any row is
        read; below a reward head that is the same."""
        from mmalign.adapters._loading import check_weights, glance_at
        from mmalign.adapters._vision_loading import refuse_no_vision_lm

        folder, whole = glance_at(self.path, self.revision)
        refuse_no_vision_lm(folder)
        if whole:
            check_weights(folder, allow_pickle=self.allow_pickle)

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> VisionLM:
        """Load model and processor; `dtype` holds where the field of that name is null. Raises UserError."""
        from mmalign.adapters._vision_lm import VisionLM

        return VisionLM(self, device, dtype)

    def build_backbone(self, device: torch.device, dtype: torch.dtype = torch.float32) -> VisionLM:
        """The same, below a reward head."""
        return self.build(device, dtype)
