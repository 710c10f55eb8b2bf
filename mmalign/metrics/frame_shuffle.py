"""A control: the same questions about clips whose frames stand in a random order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmalign.metrics._control import Control
from mmalign.metrics._seam import Question
from mmalign.types import UserError


@dataclass(frozen=True)
class FrameShuffle(Control):
    """The values of the metric `of`, the same with shuffled frames (`_shuffled`), and the fall (`_drop`). A
    benchmark of time whose values do not fall is answered from single frames."""

    word = "shuffled"

    # section of the other metric, which asks about clips
    of: dict[str, Any] = field(metadata={"section": "metrics"})

    @property
    def section(self) -> Mapping[str, Any]:
        """The metric as a section."""
        return self.of

    def changed(self, questions: Sequence[Question]) -> list[Question]:
        """The same words about the same frames in another order. Raises UserError for a question without a
        clip."""
        for one in questions:
            if not any(part.kind == "video" for turn in one.turns for part in turn.parts):
                raise UserError(f"frame_shuffle: question {one.id!r} of {one.asks} shows no video")
        return [replace(one, change="shuffled_frames") for one in questions]
