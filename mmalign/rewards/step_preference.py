"""SPO's step-aware preference model: PickScore that is told how noisy a picture was (arXiv 2406.04314)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from mmalign.rewards._loading import Place, pick_device
from mmalign.rewards._pictures import PictureJudge, check_pixels
from mmalign.rewards._timed_encoder import TimedEncoder, load_timed
from mmalign.types import Message, Part, UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepPreference(PictureJudge):
    """exp(logit scale) cos(picture, caption) of a CLIP model whose picture tower is told the timestep.

    Not checked against published numbers.

    A difference d of two scores under one caption means that the first is preferred with probability
    sigmoid(d). Rounds of `spo` tell it the noise level that a picture was predicted from, in one step;
    elsewhere pictures are finished ones, timestep 0. `path` is what adapter step_preference trained, or with
    `checkpoint` the model that a checkpoint of the authors' code (RockeyCoss/SPO) is of:
    yuvalkirstain/PickScore_v1, with `processor` laion/CLIP-ViT-H-14-laion2B-s32B-b79K. Pictures are resized
    as PickScore's own code does it, with smoothing; the authors' resizes without.
    """

    unchecked: ClassVar[bool] = True  # no score was compared with published ones

    path: str  # transformers CLIP folder or hub id
    checkpoint: str | None = None  # file of the authors' training code: all weights, in place of the folder's
    batch: int = 32  # pictures per forward
    processor: str | None = None  # tokenizer and preprocessor, if not in the folder
    device: str | None = None  # null: a GPU if there is one

    def __post_init__(self) -> None:
        for name in ("path", "checkpoint", "processor", "device"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise ValueError(f"{name}: must not be empty")
        if self.batch < 1:
            raise ValueError(f"batch: must be above 0, got {self.batch}")

    def per_batch(self) -> int:
        """Pictures per forward."""
        return self.batch

    def ready(self) -> None:
        """Load the model. Raises UserError if it cannot be had."""
        _ = self.encoder

    @cached_property
    def encoder(self) -> TimedEncoder:
        """The towers, loaded at the first use."""
        try:
            device = pick_device(self.device)
        except UserError as error:
            raise UserError(f"{self.label}: {error}") from error
        found = self.towers(device)
        log.warning("%s from %s: not checked against published numbers", self.label, self.path)
        return found

    def towers(self, device: torch.device, seed: int | None = None) -> TimedEncoder:
        """The towers on a device. With a `seed` a plain CLIP model gets a fresh conditioning, to be trained.
        Raises UserError if they cannot be had."""
        with torch.random.fork_rng(devices=[]):  # new layers draw weights; nobody's draws may shift
            return load_timed(Place(self.label, self.path, self.processor), self.checkpoint, device, seed)

    @torch.no_grad()
    def scores(self, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """Scores [B] of finished pictures."""
        return self.combine(self.encoder.pictures(pictures), captions).cpu()

    @torch.no_grad()
    def score_steps(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part], timesteps: Sequence[int]
    ) -> list[Mapping[str, float]]:
        """The score of every picture under its prompt's text, as one predicted from its timestep; of a clip
        the mean over its frames."""
        if len(timesteps) != len(responses):
            raise ValueError(f"one timestep per response: got {len(timesteps)} for {len(responses)}")
        frames = self.frames(prompts, responses)
        found: list[list[float]] = [[] for _ in responses]
        while part := list(islice(frames, self.batch)):
            places, pictures, captions = zip(*part, strict=True)
            seen = self.encoder.pictures_at(pictures, [timesteps[place] for place in places])
            for place, value in zip(places, self.combine(seen, captions).tolist(), strict=True):
                found[place].append(value)
        return [{"score": math.fsum(values) / len(values)} for values in found]

    def reward(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] with a graph of finished pictures [B, 3, H, W] in [0, 1], on the pixels' device."""
        seen = self.encoder.pixels(check_pixels(pixels, captions))
        return self.combine(seen, captions).to(pixels.device)

    def combine(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] of picture embeddings [B, E]."""
        return self.encoder.scale * (pictures * self.encoder.texts(captions)).sum(-1)
