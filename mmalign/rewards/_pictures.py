"""What judges of pictures have in common: reading prompts and responses, batches, one score each.

Letters: B pictures, H and W their sides in pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign._names import KINDS, name_of
from mmalign.rewards._batch import BatchJudge
from mmalign.types import Message, Part, UserError


@dataclass(frozen=True)
class PictureJudge(BatchJudge):
    """Scores pictures in two ways that agree: files as the upstream code reads them, and tensors with a
    gradient (`PixelReward`)."""

    @abstractmethod
    def scores(self, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """Scores [B] of RGB pictures, each with its caption, without a graph."""

    @abstractmethod
    def reward(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] with a graph of RGB pictures [B, 3, H, W] in [0, 1], each with its caption."""

    def per_batch(self) -> int:
        """Pictures in one call of `scores`."""
        return 1

    def ready(self) -> None:
        """Nothing to load."""

    @property
    def label(self) -> str:
        """The name that configs know this judge by."""
        return name_of(KINDS["judge"], type(self))

    @torch.no_grad()
    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        """The score of every picture under its prompt's text. Raises UserError for other responses."""
        pictures, captions = self.read(prompts, responses)
        found: list[Mapping[str, float]] = []
        size = self.per_batch()
        for begin in range(0, len(pictures), size):
            part = slice(begin, begin + size)
            found += [{"score": value} for value in self.scores(pictures[part], captions[part]).tolist()]
        return found

    def read(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> tuple[list[Image.Image], list[str]]:
        """RGB pictures and their captions. Raises UserError for other responses."""
        captions = [caption_of(prompt) for prompt in prompts]
        pictures = [
            picture_of(part, f"{self.label}: response {place}") for place, part in enumerate(responses, 1)
        ]
        assert len(captions) == len(pictures), "one response per prompt"
        return pictures, captions


def caption_of(prompt: tuple[Message, ...]) -> str:
    """The text of a prompt, its parts joined by spaces."""
    return " ".join(part.data for message in prompt for part in message.parts if part.kind == "text")


def picture_of(part: Part, where: str) -> Image.Image:
    """A decoded picture as RGB. Raises UserError, starting with `where`, for anything else."""
    if part.kind != "image":
        raise UserError(f"{where}: reads pictures, got a response of kind {part.kind}")
    if not isinstance(part.data, Image.Image):
        raise UserError(f"{where}: reads decoded pictures, got {type(part.data).__name__}")
    return part.data.convert("RGB")


def to_pixels(picture: Image.Image) -> Tensor:
    """An RGB picture as float32 [3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).float() / 255


def check_pixels(pixels: Tensor, captions: Sequence[str], least: int = 1) -> Tensor:
    """Pixels in float32. Raises ValueError for another shape than [B, 3, H, W], another number of captions,
    whole numbers, or a side below `least`."""
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"pixels must be [B, 3, H, W], got {list(pixels.shape)}")
    if len(captions) != pixels.shape[0]:
        raise ValueError(f"one caption per picture: got {len(captions)} for {pixels.shape[0]}")
    if not pixels.is_floating_point():
        raise ValueError(f"pixels must be floating point in [0, 1], got {pixels.dtype}")
    if min(pixels.shape[2:]) < least:
        raise ValueError(f"pictures must be at least {least} x {least} pixels, got {list(pixels.shape)}")
    return pixels.float()
