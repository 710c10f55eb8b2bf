"""Win rate of one model over another on the same prompts, with its 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True)
class WinRate:
    """How often the tuned model's response scored above the base model's; shares lie in 0..1.

    `rate` counts a tie as half a win; `low` and `high` are its 95 % Wilson interval (Wilson 1927). That
    interval takes every prompt for a yes or no: a tie varies less than that, so with ties it is wider than it
    need be, never too narrow. `resampled` is the 95 % percentile interval of the same rate when the prompts
    are drawn anew, with replacement (bootstrap, Efron 1979): it knows of ties, and is too narrow where all
    prompts went one way. `decided_rate` leaves the ties out and is None where nothing else is left.
    """

    rate: float
    low: float
    high: float
    ties: float  # share of prompts with equal scores
    decided_rate: float | None
    wins: int
    losses: int
    num: int
    resampled: tuple[float, float]


def win_rate(base: Sequence[float], tuned: Sequence[float]) -> WinRate:
    """Compare two lists of scores prompt by prompt; higher is better, only equal numbers tie.

    Raises ValueError for lists that are empty, of different lengths, or hold NaN.
    """
    if len(base) != len(tuned) or not base:
        raise ValueError(f"a win rate needs as many base as tuned scores, got {len(base)} and {len(tuned)}")
    for place, pair in enumerate(zip(base, tuned, strict=True)):
        if any(math.isnan(value) for value in pair):
            raise ValueError(f"score {place}: NaN cannot be compared")
    num = len(base)
    wins = sum(ours > before for before, ours in zip(base, tuned, strict=True))
    losses = sum(ours < before for before, ours in zip(base, tuned, strict=True))
    ties = num - wins - losses
    rate = (wins + ties / 2) / num
    low, high = wilson(rate, num)
    decided = wins / (wins + losses) if wins + losses else None
    return WinRate(rate, low, high, ties / num, decided, wins, losses, num, resampled(wins, ties, losses))


def resampled(wins: int, ties: int, losses: int) -> tuple[float, float]:
    """2.5 % and 97.5 % points of the win rate over all ways of drawing as many prompts with replacement.

    The distribution is computed, not sampled: one prompt is worth 0, 1 or 2 half wins with the shares that
    were seen, and the sum over all is the convolution of that many such prompts.
    """
    num = wins + ties + losses
    one = np.array([losses, ties, wins], dtype=np.float64) / num
    total, power, left = np.ones(1), one, num
    while left:  # the num-fold convolution by squaring
        if left % 2:
            total = np.convolve(total, power)
        left //= 2
        power = np.convolve(power, power) if left else power
    below = np.cumsum(total)
    low, high = (int(np.searchsorted(below, share - 1e-12)) for share in (0.025, 0.975))
    return low / (2 * num), min(high, 2 * num) / (2 * num)


def wilson(share: float, num: int) -> tuple[float, float]:
    """The 95 % score interval of a share observed on `num` trials; both ends lie in 0..1."""
    shrink = 1 + Z95**2 / num
    centre = (share + Z95**2 / (2 * num)) / shrink
    half = Z95 * math.sqrt(share * (1 - share) / num + Z95**2 / (4 * num**2)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)
