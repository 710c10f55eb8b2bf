"""Views of a question's decoded media: the same words asked about something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Generator

from mmalign.clips import Clip
from mmalign.data._views_media import shuffled_order
from mmalign.types import Message, Part, UserError, derive_seed

Change = Callable[[tuple[Message, ...], Generator], tuple[Message, ...]]


def shuffled_frames(turns: tuple[Message, ...], generator: Generator) -> tuple[Message, ...]:
    """Every clip with its frames in a random order other than their own; the time stamps stay in place.
    Raises UserError for a clip of one frame."""

    def one(part: Part) -> Part:
        if not isinstance(part.data, Clip):
            return part
        if len(part.data.frames) < 2:
            raise UserError(
                "a clip shows one frame, which has no other order; raise model.frames.count or leave it out"
            )
        order = shuffled_order(len(part.data.frames), generator)
        return replace(part, data=replace(part.data, frames=part.data.frames[order]))

    return tuple(replace(turn, parts=tuple(one(part) for part in turn.parts)) for turn in turns)


CHANGES: Mapping[str, Change] = {"shuffled_frames": shuffled_frames}


def changed(change: str, turns: tuple[Message, ...], seed: int, name: str) -> tuple[Message, ...]:
    """Decoded turns under a change; the random numbers follow from seed and name alone. Raises UserError
    naming the question where there is nothing to change."""
    if not change:
        return turns
    try:
        return CHANGES[change](turns, Generator().manual_seed(derive_seed(seed, 0, name, change)))
    except UserError as error:
        raise UserError(f"prompt {name!r}: {error}") from error
