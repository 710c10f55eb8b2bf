"""Values with intervals: clusters of items are drawn anew, with replacement (bootstrap, Efron 1979).

Two models that answered the same items are drawn together, so that the interval of their difference is that
of paired answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmalign.metrics._seam import Graded, Metric, Numbers, Sums

DRAWS, SEED, _CHUNK = 1000, 20240407, 100


@dataclass(frozen=True)
class Figure:
    """A value, None where it has no meaning for want of items, and the 95 % percentile interval of it; that
    is None where fewer than half of the draws have a value, or all of them the same."""

    value: float | None
    low: float | None = None
    high: float | None = None


def figures(metric: Metric, items: Sequence[Graded]) -> dict[str, Figure]:
    """Every value of one model's items."""
    drawn = _drawn(metric, [items], [item.cluster or item.id for item in items])[0]
    return {name: _figure(numbers) for name, numbers in drawn.items()}


def differences(metric: Metric, base: Sequence[Graded], tuned: Sequence[Graded]) -> dict[str, Figure]:
    """Every value of the tuned model minus the base model's, on the items that both have."""
    both = {item.id for item in base} & {item.id for item in tuned}
    sides = [[item for item in items if item.id in both] for items in (base, tuned)]
    before, after = _drawn(metric, sides, sorted({item.cluster or item.id for item in sides[0]}))
    return {name: _figure(after[name] - before[name]) for name in before if name in after}


def _drawn(
    metric: Metric, sides: Sequence[Sequence[Graded]], clusters: Sequence[str]
) -> list[dict[str, Numbers]]:
    """Values of every side: the first number is that of the items as they are, the others of draws."""
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    tables = [_table(items, places) for items in sides]
    weights = [np.ones((1, len(places))), *_weights(len(places))]
    found = []
    for names, table in tables:
        totals = np.concatenate([part @ table for part in weights])
        sums = Sums({name: totals[:, i] for i, name in enumerate(names)}, len(totals))
        found.append(metric.values(sums))
    return found


def _table(items: Sequence[Graded], places: dict[str, int]) -> tuple[list[str], Numbers]:
    """Names of all counts, and the counts of every cluster, [clusters, names]."""
    names = list(dict.fromkeys(name for item in items for name in item.counts))
    columns = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(places), len(names)))
    for item in items:
        row = places[item.cluster or item.id]
        for name, count in item.counts.items():
            table[row, columns[name]] += count
    return names, table


def _weights(count: int) -> Iterator[Numbers]:
    """How often each of the clusters is in each draw, a hundred draws at a time: [100, clusters]."""
    if count == 0:
        return
    generator = np.random.default_rng(SEED)
    for _ in range(DRAWS // _CHUNK):
        yield generator.multinomial(count, [1 / count] * count, size=_CHUNK).astype(np.float64)


def _figure(numbers: Numbers) -> Figure:
    value, drawn = float(numbers[0]), numbers[1:][~np.isnan(numbers[1:])]
    if math.isnan(value):
        return Figure(None)
    if len(drawn) < DRAWS / 2 or drawn.min() == drawn.max():
        return Figure(value)  # a point for an interval would claim too much
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Figure(value, float(low), float(high))
