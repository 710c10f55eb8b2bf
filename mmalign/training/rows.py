"""The rows of a run: what its sources give, what the objective asks of them, and their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

from torch import Tensor

from mmalign.config import RunConfig, Train
from mmalign.data._balance import balanced
from mmalign.data._digest import digest
from mmalign.data._first_pass import (
    FirstPass,
    beside_prompts,
    first_pass,
    only_prompts,
    outcomes,
    require,
    require_unique,
    unpair,
)
from mmalign.data._loader import Loader, Recipe
from mmalign.data._order import Order
from mmalign.data._row_cache import RowCache
from mmalign.data._sources import Skipped, load, options_of
from mmalign.data._views import change_of, check_views, partnerless
from mmalign.data._views_media import media
from mmalign.training._held_prompts import held_out
from mmalign.training._online_modes import BLIND
from mmalign.training.checks import fields_of
from mmalign.training.console import Console
from mmalign.training.masks import check_mask
from mmalign.training.world import World
from mmalign.types import Adapter, Item, Objective, PreferenceSample, UserError, View

OnSkip = Callable[[int, Skipped], None]


def scored_roles(objective: Objective) -> tuple[str, ...]:
    """Every role that some source scores, views included."""
    return tuple(dict.fromkeys(role for roles in objective.roles.values() for role in roles))


def row_roles(config: RunConfig) -> tuple[str, ...]:
    """Those of them that rows must have, views left out. Where rounds write an answer blind it is not one of
    them, and the rejected answer is, which stands in for it."""
    roles = tuple(role for role in scored_roles(config.objective) if role not in config.objective.views)
    if config.online is None or config.online.blind is None:
        return roles
    return tuple(dict.fromkeys([*(role for role in roles if role != BLIND), "rejected"]))


def wanted_roles(config: RunConfig) -> tuple[str, ...]:
    """The roles that the run's rows are read for: of rounds the prompt alone, or beside what they mix in."""
    if config.online is None:
        return scored_roles(config.objective)
    return ("prompt",) if config.online.offline is None else ("prompt", *scored_roles(config.objective))


WITHOUT_IMAGE = {"chosen": "chosen/no_image", "rejected": "rejected/no_image"}
"""Roles of a pair, and of the same pair with the prompt's pictures and clips taken away."""


def probes(objective: Objective, media_read: frozenset[str]) -> dict[str, View]:
    """Roles that held-out evaluation scores besides the objective's own: the pair without its pictures, where
    there is a pair and an adapter that reads them."""
    if not media_read or not WITHOUT_IMAGE.keys() <= set(objective.roles["policy"]):
        return {}
    return {role: View(of, "no_image") for of, role in WITHOUT_IMAGE.items()}


@dataclass
class Pool:
    """The samples of one source, of its training or its held-out part."""

    samples: list[PreferenceSample]
    source: Any
    weight: float | None = None  # share of the samples drawn; None: by size

    @property
    def on_error(self) -> Literal["stop", "skip"]:
        """What a broken row does; a user's own source need not have the option."""
        return "skip" if getattr(self.source, "on_error", "stop") == "skip" else "stop"


class Steps(Protocol):
    """What gives the items of one optimizer step after the other."""

    def steps(self, start: int = 0, stop: int | None = None) -> Iterator[list[Item]]:
        """This process's items of step `start`, `start` + 1, ... up to before `stop` (None: endless)."""


@dataclass
class RunData:
    """Training pools, one per source, and held-out ones; `notes` says in words what was done to them."""

    pools: list[Pool]
    heldout: list[Pool]
    world: World
    hash: str
    notes: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Training samples of all sources."""
        return sum(len(pool.samples) for pool in self.pools)

    def facts(self) -> dict[str, Any]:
        """For the run's record."""
        heldout = sum(len(pool.samples) for pool in self.heldout)
        return {"hash": self.hash, "rows": self.rows, "heldout": heldout, "left_out": len(self.skipped)}

    def news(self) -> dict[str, Tensor]:
        """Values [n] by name to be logged beside those of the next step."""
        return {}

    def num_steps(self, train: Train) -> int:
        """Steps of the run: as given, or the epochs rounded up to whole steps."""
        if train.steps is not None:
            return train.steps
        assert train.epochs is not None
        return math.ceil(train.epochs * self.rows / train.batch)

    def admit(self, adapter: Adapter, config: RunConfig, console: Console) -> None:
        """Leave out, or refuse, the rows the adapter cannot use, before any order is made.

        Raises RuntimeError if the processes do not keep the same rows: a file that one of them could not read
        would otherwise give each its own order.
        """
        objective: Objective = config.objective
        roles = row_roles(config)
        masked = "mask" in fields_of(config)
        check = partial(_check, adapter, roles, objective.views, masked)
        for place, pool in enumerate([*self.pools, *self.heldout]):
            require(pool.samples, roles, fields_of(config))
            train = config.train
            passed = first_pass(
                pool.samples, check, pool.on_error, train.workers, train.timeout_s, adapter.frames
            )
            passed = _with_partners(passed, objective.views, pool.on_error)
            pool.samples = passed.kept
            self.skipped += passed.skipped
            for line in passed.lines():
                self.notes.append(line if place < len(self.pools) else f"held-out {line}")
                console.say(self.notes[-1])
        kept = digest([[sample.id for sample in pool.samples] for pool in [*self.pools, *self.heldout]])
        if len(set(self.world.gather(kept))) > 1:
            raise RuntimeError("data: the processes do not read the same rows; is the disk the same for all?")
        self.order(config)  # may have become too few
        weights = {sample.weight for pool in self.pools for sample in pool.samples}
        if config.train.batch == 1 and len(weights) > 1:
            console.warn(
                "data: rows have different weights, which do nothing with train.batch=1: a step divides by "
                "the sum of its weights; raise train.batch"
            )

    def order(self, config: RunConfig) -> Order:
        """The endless stream of training samples; this process's share of every step."""
        sizes = tuple(len(pool.samples) for pool in self.pools)
        weights: tuple[float, ...] | None = None
        if any(pool.weight is not None for pool in self.pools):
            weights = tuple(1.0 if pool.weight is None else pool.weight for pool in self.pools)
        return Order(config.seed, sizes, config.train.batch, weights, self.world.size, self.world.rank)

    def loader(
        self,
        adapter: Adapter,
        config: RunConfig,
        on_skip: OnSkip | None = None,
        cache: RowCache | None = None,
    ) -> Steps:
        """Training items step by step; `on_skip` hears of rows that fail although they passed before. What is
        encoded in the folder of `cache` is taken from there without being decoded."""
        recipe, train = self._recipe(adapter, config, self.pools), config.train
        recipe = replace(recipe, cache=cache)
        samples = [pool.samples for pool in self.pools]
        return Loader(samples, self.order(config), recipe, train.workers, train.timeout_s, on_skip)

    def every_item(self, adapter: Adapter, config: RunConfig) -> Iterator[list[Item]]:
        """This process's share of one walk through all training samples, a few at a time, epoch 0."""
        share = replace(self.order(config), batch=min(self.rows, 32 * self.world.size), weights=None)
        recipe = self._recipe(adapter, config, self.pools)
        loader = Loader([pool.samples for pool in self.pools], share, recipe, config.train.workers)
        for items in loader.steps(0, math.ceil(self.rows / share.batch)):
            yield [replace(item, epoch=0) for item in items]

    def heldout_items(self, adapter: Adapter, config: RunConfig) -> list[Item]:
        """All held-out samples; every process gets the whole list."""
        samples = [sample for pool in self.heldout for sample in pool.samples]
        if not samples:
            return []
        if len(samples) == 1 and any(change_of(r, v).pairing for r, v in config.objective.views.items()):
            raise UserError("held-out data: a row's partner needs a second row, only one is kept back")
        recipe = self._recipe(adapter, config, self.heldout)
        recipe = replace(recipe, probes=probes(config.objective, adapter.media))
        # row by row: what a worker sends at once, and the time it may take, stay those of one row
        one_by_one = Loader([samples], Order(config.seed, (len(samples),), 1), recipe)
        items = [item for step in one_by_one.steps(0, len(samples)) for item in step]
        if recipe.probes:
            self._note_unprobed(samples, items)
        return sorted(items, key=lambda item: item.id)

    def _note_unprobed(self, samples: Sequence[PreferenceSample], items: Sequence[Item]) -> None:
        """Say how many held-out rows the image-less margin leaves out although they hold media."""
        probed = sum(any(row.role in WITHOUT_IMAGE.values() for row in item.prepared.rows) for item in items)
        seeing = sum(any(media(sample.examples["chosen"])) for sample in samples)
        line = f"held-out data: {seeing - probed} of {seeing} rows with media cannot be read without them"
        if seeing > probed and line not in self.notes:
            self.notes.append(f"{line}; margin_with_image and margin_without_image leave them out")

    def _recipe(self, adapter: Adapter, config: RunConfig, pools: Sequence[Pool]) -> Recipe:
        objective: Objective = config.objective
        policies = {pool.on_error for pool in pools}
        on_error = policies.pop() if len(policies) == 1 else "stop"
        return Recipe(
            adapter.prepare,
            scored_roles(objective),
            objective.views,
            config.views.redraw,
            on_error,
            adapter.frames,
        )


def _with_partners(passed: FirstPass, views: Mapping[str, View], on_error: str) -> FirstPass:
    """Without rows whose views need another row that is not there; UserError if such are to stop a run."""
    alone = partnerless(passed.kept, views)
    if alone and (on_error == "stop" or len(alone) == len(passed.kept)):
        raise UserError(alone[min(alone)])
    lost = [Skipped(passed.kept[i].id, passed.kept[i].origin, reason) for i, reason in alone.items()]
    kept = [sample for i, sample in enumerate(passed.kept) if i not in alone]
    return replace(passed, kept=kept, skipped=[*passed.skipped, *lost])


def _check(
    adapter: Adapter,
    roles: tuple[str, ...],
    views: Mapping[str, View],
    masked: bool,
    sample: PreferenceSample,
) -> Sequence[str]:
    check_views(sample, views)
    found = adapter.check(sample, roles)
    if masked:
        check_mask(adapter, roles, sample)
    return found


def load_data(config: RunConfig, world: World, console: Console) -> RunData:
    """Read every source, check each row's form, and fit pairs to objectives that take single responses."""
    wanted = wanted_roles(config)
    prompts = "prompt" in wanted
    loaded = [load(source, prompts=wanted == ("prompt",)) for _, source in config.data]
    kept_back = [(source, load(source, which, prompts=prompts)) for source, which in heldout_sources(config)]
    for part in [*loaded, *(part for _, part in kept_back if config.heldout is not None)]:
        if (line := part.report.unseeing_line(config.model.media)) is not None:
            console.warn(f"data: {line}")
    notes = [line for part in loaded for line in part.report.lines()]
    notes += [f"held-out {line}" for _, part in kept_back for line in part.report.lines()]
    pools = [Pool(p.samples, source, w) for p, (w, source) in zip(loaded, config.data, strict=True)]
    heldout = [Pool(part.samples, source) for source, part in kept_back]
    if "completion" in wanted:
        for pool in [*pools, *heldout]:
            pool.samples = _single(pool.samples, notes)
    if prompts:
        alone = config.online is not None and config.online.data_alone
        asked = only_prompts if wanted == ("prompt",) else partial(beside_prompts, all_train=alone)
        for pool in pools:
            pool.samples = asked(pool.samples, notes)
        for pool in heldout:
            pool.samples = held_out(pool.samples, config, row_roles(config), notes)
    pools = balanced_pools(pools, notes)
    same_files = config.heldout is None
    require_unique([pool.samples for pool in ([*pools, *heldout] if same_files else pools)])
    skipped = [row for part in loaded for row in part.report.skipped]
    for line in notes:
        console.say(line)
    return RunData(pools, heldout, world, digest([p.report.data_hash for p in loaded]), notes, skipped)


def balanced_pools(pools: list[Pool], notes: list[str]) -> list[Pool]:
    """Pools of sources with `positive_ratio` as two, positive and negative, weighted for this share; others
    keep theirs. Raises UserError where rows have no binary label."""
    ratios = [options_of(pool.source).positive_ratio for pool in pools]
    if all(ratio is None for ratio in ratios):
        return pools
    by_size = all(pool.weight is None for pool in pools)
    made = []
    for pool, ratio in zip(pools, ratios, strict=True):
        weight = float(len(pool.samples)) if by_size else 1.0 if pool.weight is None else pool.weight
        if ratio is None:
            made.append(replace(pool, weight=weight))
            continue
        parts = balanced(pool.samples, ratio)
        notes.append(parts.line())
        made.append(replace(pool, samples=parts.positive, weight=weight * ratio))
        made.append(replace(pool, samples=parts.negative, weight=weight * (1 - ratio)))
    return made


def heldout_sources(config: RunConfig) -> list[tuple[Any, Literal["train", "heldout"]]]:
    """Sources of held-out rows, and which part of each."""
    if config.heldout is not None:
        if options_of(config.heldout).positive_ratio is not None:
            raise UserError("heldout.positive_ratio: held-out rows are all scored, none is drawn; remove it")
        return [(config.heldout, "train")]
    return [(source, "heldout") for _, source in config.data if getattr(source, "heldout", 0)]


def _single(samples: list[PreferenceSample], notes: list[str]) -> list[PreferenceSample]:
    if not samples or all("completion" in sample.examples for sample in samples):
        return samples
    unpaired = unpair(samples)
    notes += unpaired.lines()
    return unpaired.samples


def few_samples(config: RunConfig, adapter: Adapter, count: int) -> list[Item]:
    """`count` items, two at least, of the first usable samples of a run's data, for a probe of a model; fewer
    where there are not so many. Raises UserError where there is none."""
    world = World(0, 1, adapter.device)
    data = load_data(config, world, Console(world, progress=False, quiet=True))
    roles = tuple(role for role in scored_roles(config.objective) if role not in config.objective.views)
    kept, paired = list[PreferenceSample](), list[PreferenceSample]()
    check = partial(_check, adapter, roles, config.objective.views, "mask" in fields_of(config))
    first, need = data.pools[0], max(count, 2)
    for start in range(0, len(first.samples), need):
        some = first.samples[start : start + need]
        found = outcomes(some, check, first.on_error, frames=adapter.frames)
        kept += [one for one, outcome in zip(some, found, strict=True) if not isinstance(outcome, str)]
        paired = _paired(kept, config.objective.views)
        if len(paired) >= need:
            break
    if not paired:
        where = "" if len(data.pools) == 1 else "[0]"
        raise UserError(f"data{where}: none of its {len(first.samples)} rows can be scored to probe a model")
    small = RunData([Pool(paired, first.source)], [], world, data.hash)
    taken = min(len(paired), need)
    single = replace(config, data=config.data[:1], train=replace(config.train, batch=taken, workers=0))
    return next(iter(small.loader(adapter, single).steps(0, 1)))


def _paired(samples: list[PreferenceSample], views: Mapping[str, View]) -> list[PreferenceSample]:
    """The samples but for those that lack partners, and those that then lack some in turn."""
    while alone := partnerless(samples, views):
        samples = [sample for i, sample in enumerate(samples) if i not in alone]
    return samples
