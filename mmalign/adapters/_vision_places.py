"""Which places of a row's ids stand for which of its pictures and clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby

from mmalign.adapters._vision_media import KINDS, MediaKind, Unit
from mmalign.adapters._vision_rows import Seen
from mmalign.types import UserError


@dataclass(frozen=True)
class Medium:
    """A picture or clip of a row: the places of its ids, in order, and what the tower reads of it, where that
    is its own."""

    kind: MediaKind
    places: tuple[int, ...]
    unit: Unit | None


def visual_places(seen: Seen, tokens: Mapping[MediaKind, int]) -> list[int]:
    """Places of all ids that stand for media."""
    wanted = set(tokens.values())
    return [place for place, token in enumerate(seen.ids) if token in wanted]


def media_of(
    seen: Seen, tokens: Mapping[MediaKind, int], counts: Mapping[str, int], size: Callable[[Unit], int]
) -> list[Medium]:
    """The media of a row in the order of its text. `counts`: their number by kind; `size`: how many features
    the tower gives for one, which is asked for only where media are not one run of places each.

    Raises UserError where the media of a row cannot be told apart.
    """
    found: list[Medium] = []
    for kind in (kind for kind in KINDS if counts.get(kind)):
        count = counts[kind]
        places = [place for place, token in enumerate(seen.ids) if token == tokens[kind]]
        units = [unit for unit in seen.units if unit.kind == kind]
        own: list[Unit | None] = [*units] if len(units) == count else [None] * count
        runs = _runs(places)
        if count == 1:
            parts = [places]
        elif len(runs) == count:
            parts = runs
        elif len(units) == count:
            parts = _cut(places, [size(unit) for unit in units])
        else:
            raise UserError(
                f"{count} {kind}s take {len(runs)} runs of places in the text and cannot be told apart; "
                "give one per prompt"
            )
        found += [Medium(kind, tuple(part), unit) for part, unit in zip(parts, own, strict=True)]
    return sorted(found, key=lambda medium: medium.places[0])


def _runs(places: list[int]) -> list[list[int]]:
    """The places as runs of neighbours."""
    grouped = groupby(enumerate(places), key=lambda pair: pair[1] - pair[0])
    return [[place for _, place in members] for _, members in grouped]


def _cut(places: list[int], sizes: list[int]) -> list[list[int]]:
    if sum(sizes) != len(places):
        raise UserError(
            f"{len(places)} places for features in the text, but {sum(sizes)} features; the processor and "
            "the model of this folder do not belong together"
        )
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [places[end - size : end] for end, size in zip(ends, sizes, strict=True)]
