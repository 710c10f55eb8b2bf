"""What every usable row comes to: tokens, sizes and digests of its content; views of it included."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mmalign.clips import Clip
from mmalign.config import RunConfig
from mmalign.data._digest import digest
from mmalign.data._first_pass import outcomes, require
from mmalign.data._loader import Loader, Recipe
from mmalign.data._order import Order
from mmalign.data._sources import Skipped
from mmalign.data._views import check_views
from mmalign.training.checks import fields_of
from mmalign.training.inspection._reading import Part, Reading
from mmalign.training.masks import check_mask
from mmalign.training.online import check_prompt
from mmalign.training.rows import Pool, row_roles, scored_roles
from mmalign.types import Adapter, Example, Objective, PreferenceSample, Prepared, Row, View
from mmalign.types import Part as MediaPart

_WALK = 32  # rows of one job where views are made


@dataclass(frozen=True)
class RowFacts:
    """Tokens of one response by kind, of which the model takes `limit` (None: any number)."""

    role: str
    counts: Mapping[str, int]
    limit: int | None


@dataclass(frozen=True)
class Medium:
    """Size of a decoded picture or clip in pixels; a picture is one frame."""

    kind: str
    width: int
    height: int
    frames: int


Digests = Mapping[str, tuple[tuple[str, str], ...]]  # role -> digests of prompt and response, per response


@dataclass(frozen=True)
class Facts:
    """What one usable row comes to. `examples` digests its content, decoded pictures and clips included."""

    shortened: tuple[str, ...]
    rows: tuple[RowFacts, ...]
    examples: Digests
    media: tuple[Medium, ...]


@dataclass(frozen=True)
class Seen:
    """A usable sample, the part of the data it is of, and what it comes to."""

    part: Part
    sample: PreferenceSample
    facts: Facts

    @property
    def name(self) -> str:
        """The row as messages name it."""
        return self.sample.origin or self.sample.id


@dataclass(frozen=True)
class _Look:
    """The check of one decoded sample, as training makes it, and its facts."""

    adapter: Adapter
    roles: tuple[str, ...]
    fields: tuple[str, ...]
    views: Mapping[str, View] = field(default_factory=dict)

    def __call__(self, sample: PreferenceSample) -> tuple[Facts]:
        require([sample], self.roles, self.fields)
        check_views(sample, self.views)
        shortened = tuple(self.adapter.check(sample, self.roles))
        if "mask" in self.fields:
            check_mask(self.adapter, self.roles, sample)
        rows = tuple(_facts(row) for row in _Measure(self.adapter)(sample, self.roles).rows)
        examples = {
            role: tuple((digest(one.prompt), digest(one.response)) for one in group)
            for role, group in sample.examples.items()
        }
        return (Facts(shortened, rows, examples, tuple(_media(sample))),)


@dataclass(frozen=True)
class _Measure:
    """An adapter's `prepare` that keeps numbers only, so that little travels between processes."""

    adapter: Adapter

    def __call__(self, sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        rows = []
        for row in self.adapter.prepare(sample, roles).rows:
            view = self.adapter.describe(row)
            rows.append(Row(row.role, row.slot, {"counts": dict(view.counts), "limit": view.limit}))
        return Prepared(sample.id, tuple(rows))


def _facts(row: Row) -> RowFacts:
    return RowFacts(row.role, row.data["counts"], row.data["limit"])


def _media(sample: PreferenceSample) -> Iterator[Medium]:
    """Distinct pictures and clips of all roles."""
    known: set[int] = set()
    for example in (one for group in sample.examples.values() for one in group):
        for part in parts_of(example):
            if part.kind == "text" or id(part.data) in known:
                continue
            known.add(id(part.data))
            if isinstance(part.data, Clip):
                frames, _, height, width = part.data.frames.shape
                yield Medium("video", int(width), int(height), int(frames))
            else:
                yield Medium("image", part.data.width, part.data.height, 1)


def parts_of(example: Example) -> list[MediaPart]:
    """Every piece of a prompt and its response, in reading order."""
    return [*(part for turn in example.prompt for part in turn.parts), *example.response]


# ---------------------------------------------------------------- over all rows


@dataclass(frozen=True)
class _LookAtPrompt:
    """The check of one decoded prompt that the policy is to answer, and its facts; tokens only where the
    adapter prepares a prompt by itself. `roles`: those of pairs that train beside what is
    sampled."""

    adapter: Adapter
    roles: tuple[str, ...] = ()

    def __call__(self, sample: PreferenceSample) -> tuple[Facts]:
        shortened = tuple(check_prompt(self.adapter, sample))
        if self.roles and set(self.roles) <= set(sample.examples):  # held-out rows are prompts alone
            shortened += tuple(self.adapter.check(sample, self.roles))
        rows: tuple[RowFacts, ...] = ()
        if "sampler" in self.adapter.offers:
            rows = tuple(_facts(row) for row in _Measure(self.adapter)(sample, ("prompt",)).rows)
        examples = {"prompt": tuple((digest(one.prompt), "") for one in sample.examples["prompt"])}
        return (Facts(shortened, rows, examples, tuple(_media(sample))),)


def look(reading: Reading, adapter: Adapter, config: RunConfig) -> list[Seen]:
    """Decode and check every row and prepare it in every role; rows that cannot be used leave their pools."""
    objective: Objective = config.objective
    scored = () if config.online is not None else scored_roles(objective)
    roles = tuple(role for role in scored if role not in objective.views)
    own: _Look | _LookAtPrompt = _Look(adapter, roles, fields_of(config), objective.views)
    if config.online is not None:
        mixed = config.online.offline is not None
        own = _LookAtPrompt(adapter, row_roles(config) if mixed else ())
    found: list[Seen] = []
    for part, pool in reading.parts():
        train = config.train
        results = outcomes(pool.samples, own, "skip", train.workers, train.timeout_s, adapter.frames)
        broken, sound = [], []
        for sample, result in zip(pool.samples, results, strict=True):
            if isinstance(result, tuple):
                sound.append(Seen(part, sample, result[0]))
            else:
                broken.append(Skipped(sample.id, sample.origin, result))
        reading.leave_out(part, pool, broken)
        made = tuple(role for role in scored if role in objective.views)
        if made and pool.samples:
            sound = _with_views(reading, adapter, config, (part, pool), sound)
        found += sound
    return found


def _with_views(
    reading: Reading, adapter: Adapter, config: RunConfig, place: tuple[Part, Pool], sound: list[Seen]
) -> list[Seen]:
    """Facts with the rows of every view added; samples of which one cannot be made leave the pool."""
    objective, (part, pool) = config.objective, place
    roles = tuple(role for role in scored_roles(objective) if role in objective.views)
    recipe = Recipe(_Measure(adapter), roles, objective.views, config.views.redraw, "skip", adapter.frames)
    size = min(len(pool.samples), _WALK)
    broken: dict[str, Skipped] = {}
    made: dict[str, tuple[RowFacts, ...]] = {}
    order = Order(config.seed, (len(pool.samples),), size)
    loader = Loader(
        [pool.samples],
        order,
        recipe,
        config.train.workers,
        config.train.timeout_s,
        lambda _, row: broken.update({row.id: row}),
    )
    for items in loader.steps(0, math.ceil(len(pool.samples) / size)):
        for item in items:
            made.setdefault(item.id, tuple(map(_facts, item.prepared.rows)))
    reading.leave_out(part, pool, list(broken.values()))
    return [
        replace(one, facts=replace(one.facts, rows=one.facts.rows + made[one.sample.id]))
        for one in sound
        if one.sample.id not in broken
    ]
