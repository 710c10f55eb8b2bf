"""How much a score changed from prompt to prompt: the middle change, its interval, and what can be seen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VISIBLE = 0.05
"""A change is visible if it is above this share of the interquartile range of the base's scores; where the
middle half of these are all equal, every change is."""


@dataclass(frozen=True)
class Changes:
    """Changes of one score, tuned minus base, over `num` prompts. `low` and `high` are a 95 % interval of the
    median by the sign test (order statistics), at least so sure; None below six prompts, where there is none.
    `gains` and `losses` count the changes to the better and to the worse by more than `least`."""

    median: float
    low: float | None
    high: float | None
    least: float
    gains: int
    losses: int
    num: int


def changes(pairs: Sequence[tuple[float, float]], cost: bool = False) -> Changes:
    """Changes of (base, tuned) scores, one pair per prompt, at least one; of a `cost` less is better."""
    base = [before for before, _ in pairs]
    moved = sorted(tuned - before for before, tuned in pairs)
    first, third = (float(value) for value in np.quantile(base, (0.25, 0.75)))
    least, num = VISIBLE * (third - first), len(moved)
    up, down = sum(value > least for value in moved), sum(value < -least for value in moved)
    gains, losses = (down, up) if cost else (up, down)
    place = _outermost(num)
    low, high = (None, None) if place is None else (moved[place], moved[num - 1 - place])
    return Changes(statistics.median(moved), low, high, least, gains, losses, num)


def apart(first: float, second: float, digits: int = 3) -> tuple[str, str]:
    """Two numbers with so many decimals, or with as many more as it takes to tell them apart, where they
    differ; a true minus sign."""
    while True:
        shown = f"{first:.{digits}f}", f"{second:.{digits}f}"
        if shown[0] != shown[1] or first == second or digits >= 12:
            return shown[0].replace("-", "\u2212"), shown[1].replace("-", "\u2212")
        digits += 1


def _outermost(num: int) -> int | None:
    """The place k of the sorted changes from which to num - 1 - k a median lies with 95 %: the largest with
    P(Binomial(num, 1/2) <= k) <= 2.5 %."""
    below, place = 0.0, None
    for count in range(num):
        ways = math.lgamma(num + 1) - math.lgamma(count + 1) - math.lgamma(num - count + 1)
        below += math.exp(ways - num * math.log(2))
        if below > 0.025:
            break
        place = count
    return place
