"""What judges of pictures have in common: reading prompts and responses, frames of clips, batches, one score
each.

Letters: B pictures, H and W their sides in pixels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign._names import KINDS, name_of
from mmalign.clips import Clip
from mmalign.rewards._batch import BatchJudge
from mmalign.types import Message, Part, UserError


@dataclass(frozen=True)
class PictureJudge(BatchJudge):
    """Scores pictures in two ways that agree: files as the upstream code reads them, and tensors with a
    gradient (`PixelReward`). The score of a clip is the mean over its frames, each scored as a picture."""

    reads: ClassVar[frozenset[str]] = frozenset({"image", "video"})

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
        """The score of every picture under its prompt's text, of every clip the mean over its frames. Raises
        UserError for other responses."""
        frames = self.frames(prompts, responses)
        found: list[list[float]] = [[] for _ in responses]
        while part := list(islice(frames, self.per_batch())):
            places, pictures, captions = zip(*part, strict=True)
            for place, value in zip(places, self.scores(pictures, captions).tolist(), strict=True):
                found[place].append(value)
        return [{"score": math.fsum(values) / len(values)} for values in found]

    def frames(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> Iterator[tuple[int, Image.Image, str]]:
        """Every RGB picture that the responses hold, one of a picture and each frame of a clip, with its
        response's place and its caption. Raises UserError for other responses."""
        for place, (prompt, part) in enumerate(zip(prompts, responses, strict=True)):
            for picture in pictures_of(part, f"{self.label}: response {place + 1}"):
                yield place, picture, caption_of(prompt)


def caption_of(prompt: tuple[Message, ...]) -> str:
    """The text of a prompt, its parts joined by spaces."""
    return " ".join(part.data for message in prompt for part in message.parts if part.kind == "text")


def pictures_of(part: Part, where: str) -> Iterator[Image.Image]:
    """A decoded picture, or every frame of a decoded clip, as RGB. Raises UserError, starting with `where`,
    for anything else."""
    if part.kind not in PictureJudge.reads:
        raise UserError(f"{where}: reads pictures and clips, got a response of kind {part.kind}")
    if part.kind == "image" and isinstance(part.data, Image.Image):
        yield part.data.convert("RGB")
    elif part.kind == "video" and isinstance(part.data, Clip):
        for frame in part.data.frames:
            yield Image.fromarray(frame.permute(1, 2, 0).numpy())
    else:
        word = "pictures" if part.kind == "image" else "clips"
        raise UserError(f"{where}: reads decoded {word}, got {type(part.data).__name__}")


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
