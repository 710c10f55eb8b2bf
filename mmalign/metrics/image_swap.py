"""A control: the same questions about the pictures or clips of another question."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmalign.data._digest import digest
from mmalign.data._paths import File
from mmalign.metrics._control import Control
from mmalign.metrics._seam import Question
from mmalign.types import Part, UserError


@dataclass(frozen=True)
class ImageSwap(Control):
    """The values of the metric `of`, the same under other questions' pictures (`_swapped`), and the fall
    (`_drop`). What does not fall is answered from the words alone. A question gets the media of one that has
    as many of the same kinds, none of them its own nor a part of the same video; `seed` says which."""

    word = "swapped"

    # section of the other metric, which asks about pictures or clips
    of: dict[str, Any] = field(metadata={"section": "metrics"})
    seed: int = 0  # whose picture each question gets

    @property
    def section(self) -> Mapping[str, Any]:
        """The metric as a section."""
        return self.of

    def changed(self, questions: Sequence[Question]) -> list[Question]:
        """The same words about the media of others. Raises UserError where no other question shows others of
        the same kinds."""
        shown = [_media(one) for one in questions]
        names = [frozenset(map(_called, one)) for one in shown]
        alike: dict[tuple[str, ...], list[int]] = {}
        for place, media in enumerate(shown):
            alike.setdefault(tuple(part.kind for part in media), []).append(place)
        found = []
        for place, one in enumerate(questions):
            if not shown[place]:
                raise UserError(f"image_swap: question {one.id!r} of {one.asks} shows no picture or video")
            rng = random.Random(f"{self.seed}/{one.id}")
            others = alike[tuple(part.kind for part in shown[place])]
            tried = [*rng.sample(others, min(len(others), 64)), *others]  # few are left to the second half
            partner = next((p for p in tried if names[p].isdisjoint(names[place])), None)
            if partner is None:
                raise UserError(
                    f"image_swap: no other question of {one.asks} shows other media alone of its kinds"
                )
            found.append(_with(one, shown[partner]))
        return found


def _media(question: Question) -> list[Part]:
    return [part for turn in question.turns for part in turn.parts if part.kind != "text"]


def _called(part: Part) -> str:
    """What tells one medium from another: its file, whichever part of it counts, or else its content."""
    file = part.data
    return os.path.normpath(os.path.join(file.root, file.name)) if isinstance(file, File) else digest(part)


def _with(question: Question, media: Sequence[Part]) -> Question:
    rest = iter(media)
    turns = tuple(
        replace(turn, parts=tuple(part if part.kind == "text" else next(rest) for part in turn.parts))
        for turn in question.turns
    )
    return replace(question, turns=turns)
