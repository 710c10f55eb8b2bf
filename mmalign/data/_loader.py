"""The loader: steps of prepared samples, from any step on, the same for every number of workers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmalign.clips import Frames
from mmalign.data._digest import digest
from mmalign.data._media import decode
from mmalign.data._order import Order, Place
from mmalign.data._sources import Skipped
from mmalign.data._views import add_views, change_of
from mmalign.data._workers import run_jobs
from mmalign.types import Item, PreferenceSample, Prepared, UserError, View

Prepare = Callable[[PreferenceSample, Sequence[str]], Prepared]


@dataclass(frozen=True)
class Recipe:
    """What is done to every sample: `roles` (views included) are handed to `prepare`, an adapter's method.

    `redraw`: draw the partners of views anew every "epoch" or "once". `on_error`: what happens to a row that
    fails although it passed the first check: "stop" the run, or "skip" it. `frames`: how clips are cut from
    videos; None refuses them.
    """

    prepare: Prepare
    roles: tuple[str, ...]
    views: Mapping[str, View] = field(default_factory=dict)
    redraw: Literal["once", "epoch"] = "epoch"
    on_error: Literal["stop", "skip"] = "stop"
    frames: Frames | None = None

    def __post_init__(self) -> None:
        for role, view in self.views.items():
            change_of(role, view)


@dataclass(frozen=True)
class _Step:
    items: list[Item]
    skipped: list[Skipped]


class Loader:
    """Yields this process's items of one optimizer step after the other.

    `pools`: the samples of each source, in the order of `order.sizes`. A row skipped at this point stays in
    its step as an item without rows and with weight 0, so that every process keeps its number of items; it
    is reported through `on_skip`.
    """

    def __init__(
        self,
        pools: Sequence[Sequence[PreferenceSample]],
        order: Order,
        recipe: Recipe,
        workers: int = 0,
        timeout_s: float = 300.0,
        on_skip: Callable[[int, Skipped], None] | None = None,
    ) -> None:
        if tuple(map(len, pools)) != order.sizes:
            raise ValueError(f"pools of {[*map(len, pools)]} samples for an order of {[*order.sizes]}")
        self.pools, self.order, self.recipe = pools, order, recipe
        self.workers, self.timeout_s, self.on_skip = workers, timeout_s, on_skip
        self._partner_of = next(
            (view.of for role, view in recipe.views.items() if change_of(role, view).needs_partner), None
        )
        self._groups = [] if self._partner_of is None else [_groups(pool, self._partner_of) for pool in pools]

    def steps(self, start: int = 0, stop: int | None = None) -> Iterator[list[Item]]:
        """The items of step `start`, `start` + 1, ... up to before `stop` (None: endless).

        Raises UserError for a row that fails under on_error "stop", LoaderError if a worker dies or hangs.
        Closing the iterator ends the workers.
        """
        numbers = itertools.count(start) if stop is None else range(start, stop)
        results = run_jobs(self._step, numbers, self.workers, self.timeout_s, self._describe)
        for number, step in enumerate(results, start):
            for skipped in step.skipped:
                if self.on_skip is not None:
                    self.on_skip(number, skipped)
            yield step.items

    def _step(self, number: int) -> _Step:
        items: list[Item] = []
        skipped: list[Skipped] = []
        for place in self.order.step(number):
            sample = self.pools[place.source][place.index]
            try:
                items.append(self._item(sample, place))
            except UserError as error:
                if self.recipe.on_error == "stop":
                    raise
                skipped.append(Skipped(sample.id, sample.origin, str(error)))
                nothing = Prepared(sample.id, ())
                items.append(Item(nothing, place.epoch, sample.labels, {}, 0.0, sample.origin))
        return _Step(items, skipped)

    def _item(self, sample: PreferenceSample, place: Place) -> Item:
        ready, partner = decode(sample, self.recipe.frames), None
        if self._partner_of is not None:
            redraw = self.recipe.redraw == "epoch"
            index = self.order.partner(place, self._groups[place.source], redraw)
            partner = decode(self.pools[place.source][index], self.recipe.frames)
        ready = add_views(ready, partner, self.recipe.views)
        roles = self.recipe.roles
        missing = [role for role in roles if role not in ready.examples]
        if missing:
            raise UserError(f"{sample.origin}: has no role {missing[0]!r}, only {', '.join(sample.examples)}")
        row_labels = {role: tuple(example.labels for example in ready.examples[role]) for role in roles}
        prepared = self.recipe.prepare(ready, roles)
        return Item(prepared, place.epoch, sample.labels, row_labels, sample.weight, sample.origin)

    def _describe(self, number: int) -> str:
        places = self.order.step(number)
        names = [self.pools[place.source][place.index].origin for place in places[:3]]
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        return f"step {number} ({', '.join(names)}{more})"


def _groups(pool: Sequence[PreferenceSample], role: str) -> list[int]:
    """Samples with the same condition form a group: a response from within it would be no mismatch."""
    numbers: dict[str, int] = {}
    keys = (digest([one.prompt for one in sample.examples.get(role, ())]) for sample in pool)
    return [numbers.setdefault(key, len(numbers)) for key in keys]
