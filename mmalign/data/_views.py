"""Roles made in memory from other roles, by name; applied to decoded samples in the loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mmalign.types import Example, PreferenceSample, UserError, View


def other_response(sample: PreferenceSample, partner: PreferenceSample, of: str) -> tuple[Example, ...]:
    """The sample's own condition with a response that was written for another one (KTO, arXiv 2402.01306:
    the mismatched pairs that estimate its KL term)."""
    response = partner.examples[of][0].response
    return tuple(Example(example.prompt, response) for example in sample.examples[of])


@dataclass(frozen=True)
class Change:
    """How one kind of view is made, and whether it needs a second sample."""

    make: Callable[[PreferenceSample, PreferenceSample, str], tuple[Example, ...]]
    needs_partner: bool


CHANGES: Mapping[str, Change] = {"other_response": Change(other_response, needs_partner=True)}


def change_of(role: str, view: View) -> Change:
    """The named change, or UserError with the names there are."""
    if view.change not in CHANGES:
        raise UserError(f"view {role!r}: unknown change {view.change!r}; known: {', '.join(CHANGES)}")
    return CHANGES[view.change]


def add_views(
    sample: PreferenceSample, partner: PreferenceSample | None, views: Mapping[str, View]
) -> PreferenceSample:
    """The sample with every view as a further role. `partner` is given iff a view needs one."""
    for role, view in views.items():
        for source in (sample, partner):
            if source is not None and view.of not in source.examples:
                raise UserError(f"{source.origin}: view {role!r} needs the role {view.of!r}")
        made = change_of(role, view).make(sample, partner or sample, view.of)
        sample = replace(sample, examples={**sample.examples, role: made})
    return sample
