"""Means over seeds and prompts with 95 % bootstrap intervals over both, and how a table writes them.

A seed's runs share their chance drift on every prompt, so prompts alone would give too narrow a range. In all
functions rows are seeds and columns prompts.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

V = TypeVar("V")
Rows = Sequence[Sequence[float]]
Range = tuple[float, float, float]
"""A figure, and the ends of its interval."""


def interval(rows: Rows) -> Range:
    """The mean."""
    means = _resampled(rows, lambda seeds, columns: statistics.fmean(s[c] for s in seeds for c in columns))
    return statistics.fmean(v for row in rows for v in row), *means


def relative_fall(before: Rows, after: Rows) -> Range:
    """1 - mean(after) / mean(before); 0 where the mean before is 0."""
    paired = [list(zip(b, a, strict=True)) for b, a in zip(before, after, strict=True)]

    def fall(seeds: Sequence[Sequence[tuple[float, float]]], columns: Sequence[int]) -> float:
        old = sum(s[c][0] for s in seeds for c in columns)
        new = sum(s[c][1] for s in seeds for c in columns)
        return 1 - new / old if old else 0.0

    return fall(paired, range(len(paired[0]))), *_resampled(paired, fall)


def _resampled(
    rows: Sequence[Sequence[V]], figure: Callable[[Sequence[Sequence[V]], Sequence[int]], float]
) -> tuple[float, float]:
    rng = random.Random(0)
    width = range(len(rows[0]))
    found = []
    for _ in range(2000):
        columns = rng.choices(width, k=len(width))
        found.append(figure(rng.choices(rows, k=len(rows)), columns))
    found.sort()
    return found[50], found[1949]


def changes(before: Rows, after: Rows) -> Range:
    """Mean change in points, of values from 0 to 1."""
    return interval(
        [
            [100 * (a - b) for b, a in zip(old, new, strict=True)]
            for old, new in zip(before, after, strict=True)
        ]
    )


def wins(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """1 for a win, 0.5 for a tie, 0 for a loss, prompt by prompt."""
    return [0.5 * (1 + (a > b) - (a < b)) for a, b in zip(ours, theirs, strict=True)]


def percent(values: Range) -> str:
    """Such as "12.3% [10.0%, 14.9%]"."""
    return f"{values[0]:.1%} [{values[1]:.1%}, {values[2]:.1%}]"


def points(values: Range) -> str:
    """Such as "+1.2 [-0.3, +2.4] points"."""
    return f"{values[0]:+.1f} [{values[1]:+.1f}, {values[2]:+.1f}] points"
