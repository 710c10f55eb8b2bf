"""Mean scores of two models on the same prompts, with the interval of their difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mmalign.evaluation.win_rate import Z95


@dataclass(frozen=True)
class Means:
    """Means of one score before and after over the `num` prompts that have it, and their paired difference
    with its 95 % interval (Student's t over prompts); `low` and `high` are None below three prompts."""

    base: float
    tuned: float
    difference: float
    low: float | None
    high: float | None
    num: int


def paired_means(pairs: Sequence[tuple[float, float]]) -> Means:
    """Means of (base, tuned) scores, one pair per prompt; at least one pair."""
    base, tuned = (statistics.fmean(side) for side in zip(*pairs, strict=True))
    differences = [ours - before for before, ours in pairs]
    middle = statistics.fmean(differences)
    if len(pairs) < 3:
        return Means(base, tuned, middle, None, None, len(pairs))
    half = t95(len(pairs) - 1) * statistics.stdev(differences) / math.sqrt(len(pairs))
    return Means(base, tuned, middle, middle - half, middle + half, len(pairs))


def t95(degrees: int) -> float:
    """97.5 % point of Student's t, within 0.01 of the tables from 3 degrees of freedom on, 0.04 at 2
    (Abramowitz and Stegun 26.7.5: an expansion around the normal distribution)."""
    z, v = Z95, degrees
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / v**power for power, term in enumerate(terms))
