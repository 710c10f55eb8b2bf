"""Whether an answer looked at other pictures than the one that was asked about (arXiv 2410.17637)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

CENTRE = 2 / 3  # of the width and height that count as the centre: 16 of 24 patches

_NUMBER = r"\s*-?\d*\.?\d+\s*"
_BOXES = re.compile(
    rf"[\[(]({_NUMBER},){{3}}{_NUMBER}[\])]"  # [x, y, x, y]
    rf"|\({_NUMBER},{_NUMBER}\)\s*,?\s*\({_NUMBER},{_NUMBER}\)"  # (x, y), (x, y)
    r"|<\s*/?\s*b?box\s*>|<\|box_start\|>",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Limits:
    """How many pictures a question may have, and by their number how little attention on the target an answer
    must have to be kept."""

    counts: tuple[int, ...]  # numbers of pictures that are drawn from
    # a bound for each: answers with a smaller share on the target are kept, in a sequence those with it, too
    share: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.counts or len(self.counts) != len(self.share):
            raise ValueError(
                f"share: must have one number for each of counts {list(self.counts)}, got {list(self.share)}"
            )
        if min(self.counts) < 2 or len(set(self.counts)) < len(self.counts):
            raise ValueError(f"counts: must be 2 or more and different, got {list(self.counts)}")
        if not all(0 < one <= 1 for one in self.share):
            raise ValueError(f"share: must lie in (0, 1], got {list(self.share)}")


def holds_boxes(text: str) -> bool:
    """True for text with coordinates of a box, which are wrong once the picture stands elsewhere."""
    return _BOXES.search(text) is not None


def share_of_pictures(attention: Sequence[Tensor], target: int) -> float:
    """The target's share of attention: mean over its places, over the sum of such means."""
    means = [float(one.mean()) for one in attention]
    return means[target] / sum(means)


def share_of_cell(attention: Tensor, grid: tuple[int, int], cells: tuple[int, int], target: int) -> float:
    """The share of attention [rows * columns of `grid`] in one of `cells` (rows, columns) of equal size."""
    row, column = divmod(target, cells[1])
    upper, left = row / cells[0], column / cells[1]
    return _share(attention, grid, (upper, upper + 1 / cells[0]), (left, left + 1 / cells[1]))


def share_of_centre(attention: Tensor, grid: tuple[int, int]) -> float:
    """The share of attention [rows * columns of `grid`] in the centre."""
    edge = (1 - CENTRE) / 2
    return _share(attention, grid, (edge, 1 - edge), (edge, 1 - edge))


def _share(
    attention: Tensor, grid: tuple[int, int], down: tuple[float, float], across: tuple[float, float]
) -> float:
    """What lies between two heights and two widths, given as shares; of a patch on the border its part."""
    values = attention.double().view(grid)
    weights = [
        values.new_tensor([max(0.0, min(end * n, i + 1) - max(begin * n, i)) for i in range(n)])
        for n, (begin, end) in zip(grid, (down, across), strict=True)
    ]
    return float(weights[0] @ values @ weights[1] / values.sum())


def perplexity(certainty: Tensor) -> float:
    """`exp(-mean log p)` of the probabilities of a greedy answer's tokens [n]: 1 where it is sure of each."""
    return math.exp(-float(certainty.double().log().mean()))


def edit_distance(first: str, second: str) -> float:
    """Least number of characters to insert, delete or replace, over the length of the longer text."""
    longest = max(len(first), len(second))
    if not longest:
        return 0.0
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (one != other))
    return row[-1] / longest
