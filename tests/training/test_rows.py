"""A wanted share of positive samples: exact in every epoch, the same for any number of processes."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from data.samples import pair, single

from mmalign.data._balance import balanced
from mmalign.data._order import Order
from mmalign.data._sources import SourceOptions
from mmalign.training.rows import Pool, balanced_pools
from mmalign.types import PreferenceSample, UserError


def labelled(name: str, value: float) -> PreferenceSample:
    return replace(single(name), labels={"binary": value})


ROWS = [labelled(f"p{n}", 1.0) for n in range(5)] + [labelled(f"n{n}", 0.0) for n in range(45)]


def pools_of(ratio: float, *others: Pool) -> tuple[list[Pool], list[str]]:
    notes: list[str] = []
    return balanced_pools([Pool(list(ROWS), SourceOptions(positive_ratio=ratio)), *others], notes), notes


def order_of(pools: list[Pool], batch: int = 10, **share: Any) -> Order:
    sizes = tuple(len(pool.samples) for pool in pools)
    return Order(3, sizes, batch, tuple(pool.weight or 1.0 for pool in pools), **share)


def test_the_share_of_every_epoch_is_the_wanted_one() -> None:
    pools, notes = pools_of(0.8)
    assert notes == ["data: 5 positive and 45 negative responses, drawn 0.8 to 0.2 (positive_ratio)"]
    order = order_of(pools)
    assert order.slots == (40, 10)  # of 50 draws of an epoch, 80 % are positive
    drawn = Counter(place.source for step in range(5) for place in order.step(step))
    assert drawn == {0: 40, 1: 10}
    seen = Counter(place.index for step in range(5) for place in order.step(step) if place.source == 0)
    assert set(seen.values()) == {8}  # every positive row equally often
    shares = [sum(place.source == 0 for place in order.step(step)) / 10 for step in range(1000)]
    assert abs(sum(shares) / 1000 - 0.8) < 1e-12
    assert len(set(shares)) > 1  # drawn, not dealt out


def test_processes_and_resuming_see_the_same_draws() -> None:
    pools, _ = pools_of(0.5)
    whole = order_of(pools)
    for step in (17, 0, 4):
        parts = [order_of(pools, processes=2, rank=rank).step(step) for rank in (0, 1)]
        assert [place for both in zip(*parts, strict=True) for place in both] == whole.step(step)


def test_other_sources_of_a_mixture_keep_their_shares() -> None:
    other = Pool([labelled(f"o{n}", 1.0) for n in range(50)], SourceOptions())
    pools, _ = pools_of(0.6, other)
    assert order_of(pools).slots == (30, 20, 50)
    weighted, _ = pools_of(0.5, replace(other, weight=3.0))
    assert [pool.weight for pool in weighted] == [0.5, 0.5, 3.0]
    alone = [other]
    assert balanced_pools(alone, []) is alone


def test_rows_that_cannot_be_balanced_are_refused() -> None:
    with pytest.raises(UserError, match="test row a: data.positive_ratio needs single .* chosen, rejected"):
        balanced([*ROWS, pair("a")], 0.5)
    with pytest.raises(UserError, match=r"positive_ratio 0.5: all 5 rows are positive"):
        balanced(ROWS[:5], 0.5)
    for ratio in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="positive_ratio: must lie between 0 and 1"):
            SourceOptions(positive_ratio=ratio)
