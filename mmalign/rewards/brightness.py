"""Brightness of a picture: a probe for a model that learns to please by lighter pictures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmalign.rewards._probes import Probe, luma


@dataclass(frozen=True)
class Brightness(Probe):
    """Mean over pixels of 0.2126 R + 0.7152 G + 0.0722 B (ITU-R BT.709 luma), in [0, 1]."""

    def measure(self, pixels: Tensor) -> Tensor:
        """Mean luma [B] of [B, 3, H, W]."""
        return luma(pixels).flatten(1).mean(1)
