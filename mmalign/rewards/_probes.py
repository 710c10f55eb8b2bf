"""Judges that are a formula on pixels: no model, no caption, nothing to load."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from mmalign.rewards._pictures import PictureJudge, check_pixels, to_pixels
from mmalign.types import UserError

LUMA = (0.2126, 0.7152, 0.0722)
"""Shares of red, green and blue in brightness (ITU-R BT.709)."""


@dataclass(frozen=True)
class Probe(PictureJudge):
    """A formula on RGB values in [0, 1] as they are stored (gamma-encoded)."""

    least: ClassVar[int] = 1  # pixels of a side that the formula needs

    @abstractmethod
    def measure(self, pixels: Tensor) -> Tensor:
        """The formula's value [B] for float32 pictures [B, 3, H, W] in [0, 1]."""

    def scores(self, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """Values [B]; pictures may differ in size. Raises UserError for one that is too small."""
        for picture in pictures:
            if min(picture.size) < self.least:
                width, height = picture.size
                raise UserError(
                    f"{self.label}: needs pictures of {self.least} x {self.least} pixels or more, "
                    f"got {width} x {height}"
                )
        return torch.cat([self.measure(to_pixels(picture)[None]) for picture in pictures])

    def reward(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """Values [B] with a graph of pictures [B, 3, H, W] in [0, 1]; the captions are not read."""
        return self.measure(check_pixels(pixels, captions, self.least))


def luma(pixels: Tensor) -> Tensor:
    """Brightness [B, H, W] of every pixel of [B, 3, H, W]."""
    shares = torch.tensor(LUMA, dtype=pixels.dtype, device=pixels.device)
    return (pixels * shares[:, None, None]).sum(1)  # no matrix product: autocast would round it
