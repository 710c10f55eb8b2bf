"""A wanted share of positive samples: exact in every epoch, the same for any number of processes."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from data.samples import pair, single
from training.tiny_runs import Bench, losses

from mmalign.data._balance import balanced
from mmalign.data._order import Order
from mmalign.data._sources import SourceOptions
from mmalign.data.jsonl import Jsonl
from mmalign.training.console import Console
from mmalign.training.rows import Pool, balanced_pools, load_data
from mmalign.training.run import run
from mmalign.training.world import World
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


def kto(bench: Bench, output: str, data: dict[str, Any], **sections: Any) -> Any:
    objective = {"name": "kto", "baseline": "batch"}
    return bench.config("text", output, data=data, objective=objective, **sections)


def unpaired(bench: Bench) -> Path:
    """Three liked responses and 21 that are not."""
    path = bench.folder / "unpaired.jsonl"
    rows = [
        {"id": f"row-{n}", "prompt": f"why {n}?", "completion": f" answer {n}", "label": n < 3}
        for n in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_draws_the_wanted_share_and_resumes_with_the_same_draws(bench: Bench) -> None:
    data = {"path": str(unpaired(bench)), "positive_ratio": 0.5}
    straight = run(kto(bench, "balanced", data, train={"steps": 4, "batch": 8}))
    run(kto(bench, "balanced-parts", data, train={"steps": 2, "batch": 8}))
    parts = run(kto(bench, "balanced-parts", data, train={"steps": 4, "batch": 8}))
    assert losses(parts) == losses(straight)
    plain = run(kto(bench, "plain", {**data, "positive_ratio": None}, train={"steps": 4, "batch": 8}))
    assert losses(plain) != losses(straight)
    config = kto(bench, "unused", data, train={"batch": 8})
    world = World(0, 1, torch.device("cpu"))
    loaded = load_data(config, world, Console(world, False, quiet=True))
    assert "data: 3 positive and 21 negative responses, drawn 0.5 to 0.5 (positive_ratio)" in loaded.notes
    places = [place for step in range(3) for place in loaded.order(config).step(step)]  # one epoch of 24
    liked = [loaded.pools[place.source].samples[place.index].labels["binary"] for place in places]
    assert sum(liked) == 12


def test_a_share_that_cannot_be_drawn_is_refused(bench: Bench) -> None:
    world = World(0, 1, torch.device("cpu"))
    console = Console(world, False, quiet=True)
    config = bench.config("text", "unused", data={"positive_ratio": 0.5})
    with pytest.raises(
        UserError, match="pairs.jsonl row 1: data.positive_ratio needs .* chosen, rejected to"
    ):
        load_data(config, world, console)
    split = kto(
        bench, "unused", {"positive_ratio": 0.25}
    )  # pairs that this objective takes apart have labels
    assert len(load_data(split, world, console).pools) == 2
    with pytest.raises(UserError, match="heldout.positive_ratio: held-out rows are all scored"):
        load_data(
            replace(config, heldout=Jsonl(path=str(unpaired(bench)), positive_ratio=0.5)), world, console
        )
