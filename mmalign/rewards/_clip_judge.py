"""What judges on a picture tower and a text tower have in common."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from mmalign.rewards._encoders import Encoder
from mmalign.rewards._loading import Place, load_encoder, pick_device
from mmalign.rewards._pictures import PictureJudge, check_pixels
from mmalign.types import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipJudge(PictureJudge):
    """A score of a picture's and a caption's embedding, E numbers each, of length 1."""

    unchecked: ClassVar[bool] = True  # no score was compared with published ones

    path: str  # transformers CLIP folder or hub id; open_clip folder or hf-hub:ID; file of open_clip weights
    batch: int = 32  # pictures per forward
    processor: str | None = None  # tokenizer and preprocessor of a transformers model, if not in its folder
    architecture: str | None = None  # open_clip's name of the model, where path is a file
    device: str | None = None  # null: a GPU if there is one

    def __post_init__(self) -> None:
        for name in ("path", "processor", "architecture", "device"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise ValueError(f"{name}: must not be empty")
        if self.batch < 1:
            raise ValueError(f"batch: must be above 0, got {self.batch}")

    @abstractmethod
    def combine(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] of picture embeddings [B, E]."""

    def whole(self) -> bool:
        """True where the whole picture is read with a black border, False where its middle is."""
        return False

    def per_batch(self) -> int:
        """Pictures per forward."""
        return self.batch

    def ready(self) -> None:
        """Load the model. Raises UserError if it cannot be had."""
        _ = self.encoder

    @cached_property
    def encoder(self) -> Encoder:
        """The towers, loaded at the first use."""
        try:
            device = pick_device(self.device)
        except UserError as error:
            raise UserError(f"{self.label}: {error}") from error
        place = Place(self.label, self.path, self.processor, self.architecture, self.whole())
        with torch.random.fork_rng(devices=[]):  # open_clip draws fresh weights; nobody's draws may shift
            found = load_encoder(place, device)
        if self.unchecked:
            log.warning("%s from %s: not checked against published numbers", self.label, self.path)
        return found

    @torch.no_grad()
    def scores(self, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """Scores [B], the pictures preprocessed by the model's own library."""
        return self.combine(self.encoder.pictures(pictures), captions).cpu()

    def reward(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] with a graph of pictures [B, 3, H, W] in [0, 1], on the pixels' device."""
        return self.combine(self.see(pixels, captions), captions).to(pixels.device)

    def see(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """Embeddings [B, E] with a graph of pictures [B, 3, H, W] in [0, 1] that have these captions."""
        return self.encoder.pixels(check_pixels(pixels, captions))

    def cosines(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """Cosines [B] of picture embeddings [B, E] and their captions'."""
        return (pictures * self.encoder.texts(captions)).sum(-1)
