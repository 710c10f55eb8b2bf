"""The rows of a run: what its sources give, what the objective asks of them, and their order."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mmalign.config import RunConfig, Train
from mmalign.data._digest import digest
from mmalign.data._first_pass import first_pass, require, require_unique, unpair
from mmalign.data._loader import Loader, Recipe
from mmalign.data._media import decode
from mmalign.data._order import Order
from mmalign.data._sources import LoadedData, Skipped, load
from mmalign.training.console import Console
from mmalign.training.world import World
from mmalign.types import Adapter, Item, Objective, PreferenceSample, UserError


def scored_roles(objective: Objective) -> tuple[str, ...]:
    """Every role that some source scores, views included."""
    return tuple(dict.fromkeys(role for roles in objective.roles.values() for role in roles))


@dataclass
class RunData:
    """Training pools, one per source, and held-out rows; `notes` says in words what was done to them."""

    pools: list[list[PreferenceSample]]
    heldout: list[PreferenceSample]
    world: World
    hash: str
    notes: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Training samples of all sources."""
        return sum(map(len, self.pools))

    def facts(self) -> dict[str, Any]:
        """For the run's record."""
        return {
            "hash": self.hash,
            "rows": self.rows,
            "heldout": len(self.heldout),
            "left_out": len(self.skipped),
        }

    def num_steps(self, train: Train) -> int:
        """Steps of the run: as given, or the epochs rounded up to whole steps."""
        if train.steps is not None:
            return train.steps
        assert train.epochs is not None
        return math.ceil(train.epochs * self.rows / train.batch)

    def admit(self, adapter: Adapter, config: RunConfig, console: Console) -> None:
        """Leave out, or refuse, the rows the adapter cannot use, before any order is made."""
        objective: Objective = config.objective
        roles = tuple(role for role in scored_roles(objective) if role not in objective.views)
        check = partial(_check, adapter, roles)
        pools = [(pool, source) for pool, (_, source) in zip(self.pools, config.data, strict=True)]
        for pool, source in [*pools, (self.heldout, config.heldout)]:
            if not pool:
                continue
            require(pool, roles, objective.fields)
            on_error = _on_error(source)
            passed = first_pass(pool, check, on_error, config.train.workers, config.train.timeout_s)
            pool[:] = passed.kept
            self.skipped += passed.skipped
            for line in passed.lines():
                console.say(line)
                self.notes.append(line)
        self.order(config)  # may have become too few

    def order(self, config: RunConfig) -> Order:
        """The endless stream of training samples; this process's share of every step."""
        sizes = tuple(map(len, self.pools))
        weights = tuple(weight for weight, _ in config.data)
        mixed = weights if len(weights) > 1 and len(set(weights)) > 1 else None
        return Order(config.seed, sizes, config.train.batch, mixed, self.world.size, self.world.rank)

    def loader(self, adapter: Adapter, config: RunConfig) -> Loader:
        """Training items step by step."""
        recipe = self._recipe(adapter, config)
        note = partial(_append_skipped, Path(config.output))
        train = config.train
        return Loader(self.pools, self.order(config), recipe, train.workers, train.timeout_s, note)

    def every_item(self, adapter: Adapter, config: RunConfig) -> Iterator[list[Item]]:
        """This process's share of one walk through all training samples, a few at a time, epoch 0."""
        share = replace(self.order(config), batch=min(self.rows, 32 * self.world.size), weights=None)
        loader = Loader(self.pools, share, self._recipe(adapter, config), config.train.workers)
        for items in loader.steps(0, math.ceil(self.rows / share.batch)):
            yield [replace(item, epoch=0) for item in items]

    def heldout_items(self, adapter: Adapter, config: RunConfig) -> list[Item]:
        """All held-out samples; every process gets the whole list."""
        if not self.heldout:
            return []
        order = Order(config.seed, (len(self.heldout),), len(self.heldout))
        (items,) = Loader([self.heldout], order, self._recipe(adapter, config)).steps(0, 1)
        return sorted(items, key=lambda item: item.id)

    def _recipe(self, adapter: Adapter, config: RunConfig) -> Recipe:
        objective: Objective = config.objective
        policies = {_on_error(source) for _, source in config.data}
        on_error = policies.pop() if len(policies) == 1 else "stop"
        return Recipe(
            adapter.prepare, scored_roles(objective), objective.views, config.views.redraw, on_error
        )


def _on_error(source: Any) -> Literal["stop", "skip"]:
    """A user's own source need not have the option."""
    return "skip" if getattr(source, "on_error", "stop") == "skip" else "stop"


def _check(adapter: Adapter, roles: tuple[str, ...], sample: PreferenceSample) -> None:
    adapter.check(sample, roles)


def _append_skipped(output: Path, step: int, skipped: Skipped) -> None:
    """One line per row that failed after its first check."""
    line = {"step": step + 1, "id": skipped.id, "origin": skipped.origin, "reason": skipped.reason}
    with (output / "skipped.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def load_data(config: RunConfig, world: World, console: Console) -> RunData:
    """Read every source, check each row's form, and fit pairs to objectives that take single responses."""
    loaded = [load(source) for _, source in config.data]
    kept_back = _heldout(config)
    notes = [line for part in loaded for line in part.report.lines()]
    notes += [f"held-out {line}" for part in kept_back for line in part.report.lines()]
    pools = [part.samples for part in loaded]
    heldout = [sample for part in kept_back for sample in part.samples]
    if "completion" in scored_roles(config.objective):
        pools = [_single(pool, notes) for pool in pools]
        heldout = _single(heldout, notes)
    require_unique([*pools, heldout] if config.heldout is None else pools)
    skipped = [row for part in loaded for row in part.report.skipped]
    for line in notes:
        console.say(line)
    return RunData(pools, heldout, world, digest([p.report.data_hash for p in loaded]), notes, skipped)


def _heldout(config: RunConfig) -> list[LoadedData]:
    if config.heldout is not None:
        return [load(config.heldout)]
    return [load(source, "heldout") for _, source in config.data if getattr(source, "heldout", 0)]


def _single(samples: list[PreferenceSample], notes: list[str]) -> list[PreferenceSample]:
    if not samples or all("completion" in sample.examples for sample in samples):
        return samples
    unpaired = unpair(samples)
    notes += unpaired.lines()
    return unpaired.samples


def few_samples(config: RunConfig, adapter: Adapter, count: int) -> list[Item]:
    """The first `count` usable samples of a run's data as items, for a probe of a model."""
    world = World(0, 1, adapter.device)
    data = load_data(config, world, Console(world, progress=False, quiet=True))
    roles = tuple(role for role in scored_roles(config.objective) if role not in config.objective.views)
    kept: list[PreferenceSample] = []
    for sample in data.pools[0]:
        try:
            adapter.check(decode(sample), roles)
        except UserError:
            if _on_error(config.data[0][1]) == "stop":
                raise
            continue
        kept.append(sample)
        if len(kept) == max(count, 2):
            break
    small = RunData([kept], [], world, data.hash)
    single = replace(config, data=config.data[:1], train=replace(config.train, batch=len(kept), workers=0))
    return next(iter(small.loader(adapter, single).steps(0, 1)))
