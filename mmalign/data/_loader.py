"""The loader: steps of prepared samples, from any step on, the same for every number of workers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Literal

from mmalign.clips import Frames
from mmalign.data._digest import digest
from mmalign.data._media import decode, most_videos, with_mask
from mmalign.data._order import Order, Place
from mmalign.data._row_cache import Known, RowCache, content_of
from mmalign.data._sources import Skipped
from mmalign.data._views import Pairing, add_views, change_of, no_partner
from mmalign.data._workers import LostWorker, run_jobs
from mmalign.types import Item, PreferenceSample, Prepared, Row, UserError, View, derive_seed

Prepare = Callable[[PreferenceSample, Sequence[str]], Prepared]


@dataclass(frozen=True)
class Recipe:
    """What is done to every sample: `roles` (views included) are handed to `prepare`, an adapter's method.

    `redraw`: draw views and their partners anew every "epoch" or "once". `on_error`: what happens to a row
    that fails although it passed the first check: "stop" the run, or "skip" it. `frames`: how clips are cut
    from videos; None refuses them. `probes`: views without a partner that are only looked at; a row they
    cannot be made of, or that `prepare` refuses in that form, goes without any of them. `cache`: samples that
    are encoded in its folder already are taken from there, and neither decoded nor prepared; not where there
    are views or probes, which are made of decoded samples.
    """

    prepare: Prepare
    roles: tuple[str, ...]
    views: Mapping[str, View] = field(default_factory=dict)
    redraw: Literal["once", "epoch"] = "epoch"
    on_error: Literal["stop", "skip"] = "stop"
    frames: Frames | None = None
    probes: Mapping[str, View] = field(default_factory=dict)
    cache: RowCache | None = None

    def __post_init__(self) -> None:
        for role, view in self.views.items():
            change_of(role, view)
        assert not any(change_of(role, view).pairing for role, view in self.probes.items())


def _as_one(partners: Sequence[PreferenceSample], role: str) -> PreferenceSample:
    """The only partner, or of several one sample with an example of each."""
    if len(partners) == 1:
        return partners[0]
    return replace(partners[0], examples={role: tuple(one.examples[role][0] for one in partners)})


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
        self._keys: dict[tuple[str, int, int], tuple[object, object]] = {}
        self._lost: dict[str, str] = {}  # digest of a sample's id -> why it is not decoded again

    def steps(self, start: int = 0, stop: int | None = None) -> Iterator[list[Item]]:
        """The items of step `start`, `start` + 1, ... up to before `stop` (None: endless).

        Raises UserError for a row that fails under on_error "stop", LoaderError if a worker dies or hangs.
        A video that hangs or crashes its worker is a row that fails: under "skip" the worker is replaced and
        the row not decoded again. Closing the iterator ends the workers.
        """
        workers, timeout_s = self._limits()
        while True:
            numbers = itertools.count(start) if stop is None else range(start, stop)
            with closing(run_jobs(self._step, numbers, workers, timeout_s, self._describe)) as results:
                try:
                    for number, step in enumerate(results, start):
                        for skipped in step.skipped:
                            if self.on_skip is not None:
                                self.on_skip(number, skipped)
                        start = number + 1
                        yield step.items
                    return
                except LostWorker as error:
                    if self.recipe.on_error == "stop" or error.key in self._lost:
                        raise
                    self._lost[error.key] = str(error)

    def _limits(self) -> tuple[int, float]:
        """Workers, and the seconds for one step. Videos are decoded in workers only, each within its own
        limit, and the step's limit must leave room for all of them."""
        frames, views = self.recipe.frames, self.recipe.views
        videos = 0 if frames is None else max(most_videos(pool) for pool in self.pools)
        if frames is None or not videos:
            return self.workers, self.timeout_s
        decoded = 1 + sum(view.count for role, view in views.items() if change_of(role, view).pairing)
        share = -(-self.order.batch // self.order.processes)
        return max(1, self.workers), self.timeout_s + share * decoded * videos * frames.timeout_s

    def _step(self, number: int) -> _Step:
        items: list[Item] = []
        skipped: list[Skipped] = []
        known: Known = {}
        for place in self.order.step(number):
            sample = self.pools[place.source][place.index]
            try:
                items.append(self._item(sample, place, known))
            except UserError as error:
                if self.recipe.on_error == "stop":
                    raise
                skipped.append(Skipped(sample.id, sample.origin, str(error)))
                nothing = Prepared(sample.id, ())
                items.append(Item(nothing, place.epoch, sample.labels, {}, 0.0, sample.origin))
        return _Step(items, skipped)

    def _item(self, sample: PreferenceSample, place: Place, known: Known) -> Item:
        content, cache = None, self.recipe.cache
        if cache is not None and not (self.recipe.views or self.recipe.probes):
            content = content_of(sample, self.recipe.roles)
            if content is not None and (found := cache.find(sample.id, content, known)) is not None:
                return self._made(sample, place, found)
        ready, views = self._decoded(sample), self.recipe.views
        partners: dict[str, PreferenceSample] = {}
        near: dict[int, PreferenceSample] = {}  # views of both sides mostly take the same rows
        for role, view in views.items():
            if (pairing := change_of(role, view).pairing) is not None:
                chosen = self._partners(place, role, pairing)
                for index in chosen:
                    near[index] = near.get(index) or self._decoded(self.pools[place.source][index])
                partners[role] = _as_one([near[index] for index in chosen], view.of)
        ready = add_views(ready, partners, views, self._seeds(place, sample, views))
        missing = [role for role in self.recipe.roles if role not in ready.examples]
        if missing:
            raise UserError(f"{sample.origin}: has no role {missing[0]!r}, only {', '.join(sample.examples)}")
        prepared = self._without_passing_keys(self.recipe.prepare(ready, self.recipe.roles))
        if self.recipe.probes:
            prepared = Prepared(prepared.sample_id, prepared.rows + self._probe(ready, place))
        return self._made(ready, place, replace(prepared, content=content))

    def _made(self, sample: PreferenceSample, place: Place, prepared: Prepared) -> Item:
        roles = self.recipe.roles
        row_labels = {role: tuple(example.labels for example in sample.examples[role]) for role in roles}
        labels = with_mask(sample.labels, sample.origin or sample.id)
        return Item(prepared, place.epoch, labels, row_labels, sample.weight, sample.origin)

    def _decoded(self, sample: PreferenceSample) -> PreferenceSample:
        if self._lost and (reason := self._lost.get(digest(sample.id))) is not None:
            raise UserError(reason)
        return decode(sample, self.recipe.frames)

    def _without_passing_keys(self, prepared: Prepared) -> Prepared:
        """A view that changes every epoch is not seen again: nothing is to be kept under its rows' keys."""
        if self.recipe.redraw == "once" or not self.recipe.views:
            return prepared
        passing = {role for role, view in self.recipe.views.items() if change_of(role, view).varies}
        rows = tuple(replace(row, key=None) if row.role in passing else row for row in prepared.rows)
        return replace(prepared, rows=rows)

    def _seeds(self, place: Place, sample: PreferenceSample, views: Mapping[str, View]) -> dict[str, int]:
        epoch = place.epoch if self.recipe.redraw == "epoch" else 0
        return {role: derive_seed(self.order.seed, epoch, sample.id, f"view:{role}") for role in views}

    def _partners(self, place: Place, role: str, pairing: Pairing) -> list[int]:
        """Rows that a view is made of, no two with the same content."""
        redraw, count = self.recipe.redraw == "epoch", self.recipe.views[role].count
        kind, content = self._key(role, pairing, place.source, place.index)
        taken: set[object] = set()

        def fits(index: int) -> bool:
            other = self._key(role, pairing, place.source, index)
            if other[0] != kind or other[1] in taken or not pairing.differs(content, other[1]):
                return False
            taken.add(other[1])
            return True

        found = self.order.partners(place, fits, redraw, count)
        if len(found) < count and pairing.strict:
            origin = self.pools[place.source][place.index].origin
            raise UserError(no_partner(origin, role, count, len(found)))
        return found or self.order.partners(place, lambda index: True, redraw)

    def _key(self, role: str, pairing: Pairing, source: int, index: int) -> tuple[object, object]:
        """What decides who may be whose partner, computed once per row."""
        place = (role, source, index)
        if place not in self._keys:
            examples = self.pools[source][index].examples.get(self.recipe.views[role].of, ())
            self._keys[place] = (pairing.kind(examples), pairing.content(examples))
        return self._keys[place]

    def _probe(self, ready: PreferenceSample, place: Place) -> tuple[Row, ...]:
        views = self.recipe.probes
        if any(change_of(role, view).lacks(ready.examples[view.of]) for role, view in views.items()):
            return ()
        try:
            made = add_views(ready, {}, views, self._seeds(place, ready, views)).examples
            alone = replace(ready, examples={role: made[role] for role in views})
            return self.recipe.prepare(alone, tuple(views)).rows
        except UserError:
            return ()

    def _describe(self, number: int) -> str:
        places = self.order.step(number)
        names = [self.pools[place.source][place.index].origin for place in places[:3]]
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        return f"step {number} ({', '.join(names)}{more})"
