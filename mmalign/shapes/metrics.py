"""CHAIR and POPE in the built-in world, where what a picture shows is known exactly.

They go by mmalign.shapes.metrics:Chair and mmalign.shapes.metrics:Pope and need no file.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from mmalign.metrics._mentions import chair_values, grade_mentions
from mmalign.metrics._reading import asked
from mmalign.metrics._seam import Graded, Metric, Numbers, Question, Sums
from mmalign.metrics._yes_no import YesNoItem, grade_yes_no, yes_no_values
from mmalign.shapes.sight_text import DESCRIBE_PICTURE, Probe, ask_presence, mentioned_things
from mmalign.shapes.sights import Sight, Split, render_sight, sample_sight
from mmalign.types import Message, Part

SEED = 3000
"""Seed of the scenes; the models' own and those of pairs were drawn from others."""
_ABSENT: dict[str, Probe] = {"random": "random", "companion": "companion", "exchange": "swap"}


@dataclass(frozen=True, kw_only=True)
class _Scenes(Metric):
    """`num` scenes of a stream that no training picture shares, the same for the same numbers."""

    num: int = 64  # scenes that are asked about
    split: Split = "heldout"  # stream of scenes
    seed: int = SEED  # of the scenes

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"num: must be 1 or more, got {self.num}")

    def scenes(self) -> list[tuple[str, Sight]]:
        """Every scene with its id."""
        found = ((i, sample_sight(self.split, self.seed, i)) for i in range(self.num))
        return [(f"{self.split}-{self.seed}-{i}", sight) for i, sight in found]


def _turns(sight: Sight, text: str) -> tuple[Message, ...]:
    return asked(Part("image", render_sight(sight)), text)


@dataclass(frozen=True, kw_only=True)
class Chair(_Scenes):
    """Things that captions name and pictures do not show.
    chair_i is the share of named things that the picture does not show; chair_s that of captions that name
    one; recall, the share of what it shows that is named. A thing is a colour with a shape."""

    costs: ClassVar[frozenset[str]] = frozenset({"chair_i", "chair_s"})

    def ask(self) -> Sequence[Question]:
        """A caption of every scene."""
        return [Question(name, _turns(sight, DESCRIBE_PICTURE), "Chair") for name, sight in self.scenes()]

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per caption."""
        return [
            grade_mentions(
                name,
                [(thing.name, thing.name) for thing in mentioned_things(answers[name])],
                {thing.name for thing in sight.things},
            )
            for name, sight in self.scenes()
            if name in answers
        ]

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """chair_i, chair_s and recall."""
        return chair_values(sums)


@dataclass(frozen=True, kw_only=True)
class Pope(_Scenes):
    """Answers to "Is there a red circle?": accuracy, precision, recall and F1, yes being positive.

    Of every scene and in each split one thing that is there is asked for and one that is not: any other
    (random), the one that training often showed beside it (companion), or one with the shape of one thing
    and the colour of another (exchange).
    """

    costs: ClassVar[frozenset[str]] = frozenset({"unclear"})

    @cached_property
    def _asked(self) -> dict[str, tuple[tuple[Message, ...], YesNoItem]]:
        found = {}
        for name, sight in self.scenes():
            for group, absent in _ABSENT.items():
                sides: dict[str, Probe] = {"there": "true", "absent": absent}
                for side, probe in sides.items():
                    rng = random.Random(f"presence/{name}/{group}/{side}")
                    question = ask_presence(sight.things, probe, rng)
                    if question is not None:
                        key = f"{name}/{group}/{side}"
                        item = YesNoItem(key, question.answer, name, {"split": (group,)})
                        found[key] = _turns(sight, question.text), item
        return found

    def ask(self) -> Sequence[Question]:
        """Every question, the picture before it."""
        return [Question(key, turns, "Pope") for key, (turns, _) in self._asked.items()]

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per question; those of one picture are drawn together."""
        return grade_yes_no({key: item for key, (_, item) in self._asked.items()}, answers)

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """acc, precision, recall, f1, yes_ratio and unclear."""
        return yes_no_values(sums)
