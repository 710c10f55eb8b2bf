"""Which size the pictures of a sample are brought to, and how: arithmetic on widths and heights in pixels.

All pictures of a sample get one size: they share their noise, and a loss that compares their errors must not
compare formats. Nothing is squashed: a picture is resized until it covers the size, and its centre is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Size = tuple[int, int]  # width, height

LONGEST = 2.0  # sides of a bucket differ by this factor at most; longer pictures lose their ends


def bucket_sizes(side: int, step: int) -> tuple[Size, ...]:
    """The sizes of about side * side pixels, never more, whose sides are multiples of `step`, the square
    first: for every short side the longest that fits, lying and standing."""
    assert side % step == 0, f"side {side} is no multiple of {step}"
    found: list[Size] = []
    for short in range(side, 0, -step):
        long = side * side // short // step * step
        if long > LONGEST * short:
            break
        found += [(long, short)] if long == short else [(long, short), (short, long)]
    return tuple(found)


def sample_bucket(sizes: Mapping[str, Sequence[Size]], buckets: Sequence[Size]) -> Size:
    """The bucket for all pictures of a sample, given their sizes by role: the one nearest in ratio to the
    chosen side's first picture, or to the first picture there is where no side is chosen. Of two that are as
    near the earlier counts."""
    listed = sizes.get("chosen") or next(listed for listed in sizes.values() if listed)
    width, height = listed[0]
    return min(buckets, key=lambda bucket: abs(math.log(bucket[0] * height / (bucket[1] * width))))


@dataclass(frozen=True)
class Frame:
    """A picture of size `original` is resized to `resized`; of that the rectangle of `size` at `left`, `top`
    is kept."""

    original: Size
    resized: Size
    left: int
    top: int
    size: Size

    @classmethod
    def of(cls, original: Size, size: Size) -> Frame:
        """The smallest resizing of `original` that covers `size`, and the centre."""
        scale = max(wanted / length for wanted, length in zip(size, original, strict=True))
        width, height = (
            max(wanted, round(length * scale)) for wanted, length in zip(size, original, strict=True)
        )
        return cls(original, (width, height), (width - size[0]) // 2, (height - size[1]) // 2, size)

    def time_ids(self) -> Tensor:
        """Height and width before resizing, top and left of the rectangle, height and width of the result,
        [6] float32: what a UNet conditioned on size is told (arXiv 2307.01952, section 2.2)."""
        sides = (self.original, (self.left, self.top), self.size)
        return torch.tensor([length for pair in sides for length in reversed(pair)], dtype=torch.float32)
