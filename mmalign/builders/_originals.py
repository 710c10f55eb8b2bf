"""The pictures and clips that a build copies: decoded, checked, and named where they cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmalign._names import KINDS, name_of
from mmalign.builders._candidates import Asked, Builder
from mmalign.builders._config import BuildConfig, is_source
from mmalign.builders._whole_rows import RowBuilder
from mmalign.data._first_pass import outcomes
from mmalign.data._records import PROMPT
from mmalign.data._sources import options_of
from mmalign.types import Adapter, Example, PreferenceSample, UserError

BROKEN = "rows whose picture or clip cannot be used"

_ROLE = "chosen"  # of a row's first answer, beside further roles


def refuse_unfit(config: BuildConfig, section: Any) -> None:
    """Raise UserError where a builder that copies media has none to copy, or a model that cannot. `section`:
    the model's of the config."""
    builder = config.builder
    name = name_of(KINDS["builder"], type(builder))
    if builder.copies and not is_source(config.prompts):
        what = "reads the answers" if isinstance(builder, RowBuilder) else "copies the pictures or clips"
        raise UserError(f"prompts: builder {name} {what} of a data source; name one")
    if isinstance(builder, Builder) and builder.reads_answers(config.judge) and not is_source(config.prompts):
        raise UserError("prompts: the judge is told the rows' answers; name a data source that has them")
    if _looks(builder) and section.kind != builder.works_with:
        adapter = name_of(KINDS["model"], type(section))
        told = "noises pictures or clips" if section.kind == "exact" else "makes pairs of written answers"
        raise UserError(f"model: builder {name} {told}, which adapter {adapter} cannot")


def _looks(builder: Builder | RowBuilder) -> bool:
    """True if the model is asked whether it can use whole rows, answers and all."""
    return builder.copies or isinstance(builder, RowBuilder)


def one_by_one(config: BuildConfig) -> bool:
    """True if every row is decoded by itself, so that a broken one can be left out."""
    return _looks(config.builder) or on_error(config) == "skip"


def on_error(config: BuildConfig) -> Literal["stop", "skip"]:
    """What a row that cannot be used does, by the options of its source."""
    return options_of(config.prompts).on_error if is_source(config.prompts) else "stop"


def _role(row: Asked) -> str:
    """What the row's own example is called: one without an answer is a prompt."""
    return _ROLE if row.original else PROMPT


@dataclass(frozen=True)
class _Take:
    """What the model says of a decoded row, if it is `asked`, and with `keep` the row itself."""

    adapter: Adapter
    asked: bool
    keep: bool

    def __call__(self, sample: PreferenceSample) -> tuple[PreferenceSample, ...]:
        if self.asked and PROMPT not in sample.examples:
            self.adapter.check(sample, tuple(sample.examples))
        return (sample,) if self.keep else ()


def _taken(
    config: BuildConfig, asked: Sequence[Asked], adapter: Adapter, keep: bool
) -> Iterator[tuple[PreferenceSample, ...] | str]:
    samples = [
        PreferenceSample(
            one.id,
            {_role(one): (Example(one.turns, one.original),)}
            | {role: (Example(one.turns, answer),) for role, answer in one.sides.items()},
            origin=one.origin,
        )
        for one in asked
    ]
    take = _Take(adapter, _looks(config.builder), keep)
    return outcomes(samples, take, on_error(config), frames=adapter.frames)


def refuse_broken(config: BuildConfig, asked: Sequence[Asked], adapter: Adapter) -> None:
    """Where `on_error` is stop, look at every picture and clip before anything is sampled; raises UserError
    naming the first row whose is broken or does not fit the model."""
    if on_error(config) == "stop":
        for _ in _taken(config, asked, adapter, keep=False):
            pass


def decode_originals(
    config: BuildConfig, asked: Sequence[Asked], adapter: Adapter
) -> tuple[list[Asked], dict[str, str]]:
    """Those whose media can be used, decoded, and the reasons against the others, by id; raises UserError
    for the first of these where `on_error` is stop."""
    ready, broken = [], {}
    for one, found in zip(asked, _taken(config, asked, adapter, keep=True), strict=True):
        if isinstance(found, str):
            broken[one.id] = found
        else:
            decoded = {role: examples[0] for role, examples in found[0].examples.items()}
            own = decoded.pop(_role(one))
            sides = {role: example.response for role, example in decoded.items()}
            ready.append(replace(one, turns=own.prompt, original=own.response, sides=sides))
    return ready, broken
