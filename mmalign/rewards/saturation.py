"""Saturation of a picture: a probe for a model that learns to please by stronger colours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmalign.rewards._probes import Probe

DARKEST = 1 / 255
"""Below the first step of 8 bits the largest channel counts as this; black then has saturation 0."""


@dataclass(frozen=True)
class Saturation(Probe):
    """Mean over pixels of (max - min) / max of the three channels (S of HSV), in [0, 1]; black counts 0."""

    def measure(self, pixels: Tensor) -> Tensor:
        """Mean saturation [B] of [B, 3, H, W]."""
        largest, smallest = pixels.amax(1), pixels.amin(1)
        return ((largest - smallest) / largest.clamp(min=DARKEST)).flatten(1).mean(1)
