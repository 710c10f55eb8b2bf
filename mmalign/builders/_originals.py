"""The pictures and clips that a build copies: decoded, checked, and named where they cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmalign._names import KINDS, name_of
from mmalign.builders._candidates import Asked
from mmalign.builders._config import BuildConfig, is_source
from mmalign.data._first_pass import outcomes
from mmalign.data._sources import options_of
from mmalign.types import Adapter, Example, PreferenceSample, UserError

BROKEN = "rows whose picture or clip cannot be used"

_ROLE = "chosen"  # any role whose medium is there


def refuse_unfit(config: BuildConfig, section: Any) -> None:
    """Raise UserError where a builder that copies media has none to copy, or a model that cannot. `section`:
    the model's of the config."""
    if not config.builder.copies:
        return
    name = name_of(KINDS["builder"], type(config.builder))
    if not is_source(config.prompts):
        raise UserError(f"prompts: builder {name} copies the pictures or clips of a data source; name one")
    if section.kind != config.builder.works_with:
        adapter = name_of(KINDS["model"], type(section))
        told = "noises pictures or clips" if section.kind == "exact" else "makes pairs of written answers"
        raise UserError(f"model: builder {name} {told}, which adapter {adapter} cannot")


@dataclass(frozen=True)
class _Take:
    """What the model says of a decoded row, and with `keep` the row itself."""

    adapter: Adapter
    keep: bool

    def __call__(self, sample: PreferenceSample) -> tuple[PreferenceSample, ...]:
        self.adapter.check(sample, (_ROLE,))
        return (sample,) if self.keep else ()


def _taken(
    config: BuildConfig, asked: Sequence[Asked], adapter: Adapter, keep: bool
) -> Iterator[tuple[PreferenceSample, ...] | str]:
    samples = [
        PreferenceSample(one.id, {_ROLE: (Example(one.turns, one.original),)}, origin=one.origin)
        for one in asked
    ]
    on_error = options_of(config.prompts).on_error
    return outcomes(samples, _Take(adapter, keep), on_error, frames=adapter.frames)


def refuse_broken(config: BuildConfig, asked: Sequence[Asked], adapter: Adapter) -> None:
    """Where `on_error` is stop, look at every picture and clip before anything is sampled; raises UserError
    naming the first row whose is broken or does not fit the model."""
    if config.builder.copies and options_of(config.prompts).on_error == "stop":
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
            decoded = found[0].examples[_ROLE][0]
            ready.append(replace(one, turns=decoded.prompt, original=decoded.response))
    return ready, broken
