"""Preprocessing of pictures with a gradient, equal to what upstream code does to PIL pictures.

Upstream code reads 8-bit pictures, and PIL resizes rows, rounds, then columns, and rounds again. The same
roundings are made here, so that a tensor scores like the file it would be saved to; the gradient is that of
the steps without rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF = 0.5 + 1e-4  # PIL rounds halves up, in whole numbers; float32 may leave a half just below

Fit = Literal["shorter", "cover", "inside", "squash"]


@dataclass(frozen=True)
class Recipe:
    """Resize, crop or pad, normalise.

    `fit`: `shorter` brings the shorter side to `size` and cuts the longer side's length down to a whole
    number; `cover` and `inside` keep the shape, rounding, so that the picture covers `size` or fits into it;
    `squash` does not keep the shape. `odd`: where a crop or border cannot be centred, `half_even` is
    torchvision's rule and `down` that of transformers on arrays.
    """

    size: tuple[int, int]  # height, width
    fit: Fit
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: Literal["bicubic", "bilinear"] = "bicubic"
    odd: Literal["half_even", "down"] = "half_even"
    border: float = 0.0  # value of the padding, before it is normalised

    def apply(self, pixels: Tensor) -> Tensor:
        """Model inputs [B, 3, h, w] of float32 pictures [B, 3, H, W] in [0, 1], with their graph."""
        height, width = self._target(pixels.shape[2], pixels.shape[3])
        pixels = _stored(pixels)
        for size in ((pixels.shape[2], width), (height, width)):
            if size != tuple(pixels.shape[2:]):
                resized = F.interpolate(pixels, size, mode=self.mode, align_corners=False, antialias=True)
                pixels = _stored(resized)
        if self.crop is not None:
            pixels = self._centred(pixels, self.crop)
        mean, std = (
            torch.tensor(values, dtype=pixels.dtype, device=pixels.device)[:, None, None]
            for values in (self.mean, self.std)
        )
        return (pixels - mean) / std

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.fit == "squash":
            return self.size
        if self.fit == "shorter":
            short = self.size[0]
            if height <= width:
                return short, int(short * width / height)
            return int(short * height / width), short
        ratios = (height / self.size[0], width / self.size[1])
        ratio = max(ratios) if self.fit == "inside" else min(ratios)
        return round(height / ratio), round(width / ratio)

    def _centred(self, pixels: Tensor, crop: tuple[int, int]) -> Tensor:
        for dim, wanted in ((2, crop[0]), (3, crop[1])):
            short = wanted - pixels.shape[dim]
            if short > 0:
                before = short // 2 if self.odd == "half_even" else -(-short // 2)
                sides = [0, 0, before, short - before] if dim == 2 else [before, short - before, 0, 0]
                pixels = F.pad(pixels, sides, value=self.border)
            elif short < 0:
                start = round(-short / 2) if self.odd == "half_even" else -short // 2
                pixels = pixels.narrow(dim, start, wanted)
        return pixels


def _stored(pixels: Tensor) -> Tensor:
    """Values as 8 bits keep them: within [0, 1], in steps of 1 / 255. The gradient passes within
    the ends; bicubic weights are partly negative and lead beyond them."""
    values = pixels.detach()
    passed = torch.where((values < 0) | (values > 1), values, pixels)  # clamp has none at the ends themselves
    return passed + ((values.clamp(0, 1) * 255 + _HALF).floor() / 255 - passed).detach()
