"""Sharpness of a picture: a probe for a model that learns to please by finer or noisier detail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mmalign.rewards._probes import Probe, luma


@dataclass(frozen=True)
class Sharpness(Probe):
    """Variance over inner pixels of up + down + left + right - 4 centre of the BT.709 luma in [0, 1].

    The variance of the Laplacian (a common measure of focus), divided by the number of inner pixels, not by
    one less. It falls when a picture is enlarged: compare pictures of one size.
    """

    least: ClassVar[int] = 3

    def measure(self, pixels: Tensor) -> Tensor:
        """Variance [B] of the Laplacian of [B, 3, H, W]."""
        y = luma(pixels)
        around = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:]
        return (around - 4 * y[:, 1:-1, 1:-1]).flatten(1).var(1, correction=0)
