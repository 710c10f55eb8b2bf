"""What a metric is: it asks questions, grades the answers, and computes its values from what was counted.

Every value is a function of sums over items, so that its interval comes from drawing items anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mmalign.metrics._reading import NOTHING_COPIED, Copied, answers_in
from mmalign.metrics._thoughts import without_thoughts
from mmalign.types import Message

Groups = Mapping[str, tuple[str, ...]]
"""What an item belongs to, by kind: {"split": ("adversarial",)}."""
Numbers = NDArray[np.float64]
AT = "@"
"""Between the name of a count and the group it was counted in, where a value is a mean over groups."""


@dataclass(frozen=True)
class Question:
    """One prompt, media not decoded. `asks` names the set of questions whose answers are kept together. A
    question that asks another one again about something else names it in `of`, and in `change` the view of
    `_changes.py` that decoded media are shown under, if any."""

    id: str
    turns: tuple[Message, ...]
    asks: str
    of: str = ""
    change: str = ""


@dataclass(frozen=True)
class Graded:
    """One item: what was counted in it, and what a person may want to see of it (JSON values). Items of one
    `cluster`, such as questions about one picture, are drawn together; empty: the item is its own. An item
    made of several others is not `asked`, and not among the items that are told to be so many."""

    id: str
    counts: Mapping[str, float]
    groups: Groups = field(default_factory=dict)
    cluster: str = ""
    shown: Mapping[str, Any] = field(default_factory=dict)
    asked: bool = True


class Sums(Mapping[str, Numbers]):
    """Sums of counts over items, one number per way of drawing them; what nothing was counted of is 0."""

    def __init__(self, found: Mapping[str, Numbers], draws: int) -> None:
        self._found, self._nothing = found, np.zeros(draws)

    def __getitem__(self, name: str) -> Numbers:
        return self._found.get(name, self._nothing)

    def __iter__(self) -> Any:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def under(self, prefix: str) -> Sums:
        """The sums of the counts whose names begin so, without that beginning."""
        found = {name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)}
        return Sums(found, len(self._nothing))

    def macro(self, top: str, bottom: str) -> Numbers:
        """The plain mean, over the groups that a count was counted in, of the ratio within each."""
        groups = [key.partition(AT)[2] for key in self if key.startswith(bottom + AT)]
        if not groups:
            return ratio(self._nothing, self._nothing)
        shares = np.stack([ratio(self[top + AT + one], self[bottom + AT + one]) for one in groups])
        there = ~np.isnan(shares)
        return ratio(np.where(there, shares, 0.0).sum(0), there.sum(0).astype(np.float64))


class Metric(ABC):
    """A benchmark: frozen dataclasses whose fields are the config, with the paths of its files.

    `costs` names the values of which less is better, `unchecked` says that a judge's verdicts enter which
    nobody has held against published ones. `answer_fields` are the names that prediction files give an
    answer and, before it, a question's id; those of `_reading.py` are tried after them. `copied` are fields
    by which a row of such a file is known to hold the benchmark's own, and those of them that look like an
    answer.
    """

    costs: ClassVar[frozenset[str]] = frozenset()
    unchecked: ClassVar[bool] = False
    answer_fields: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = ((), ())
    copied: ClassVar[Copied] = NOTHING_COPIED

    @property
    def less_is_better(self) -> frozenset[str]:
        """The values of which less is better."""
        return self.costs

    @property
    def is_unchecked(self) -> bool:
        """Whether verdicts enter that nobody has held against published ones."""
        return self.unchecked

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know when reading the figures, one line each."""
        return ()

    @abstractmethod
    def ask(self) -> Sequence[Question]:
        """Everything that is asked, in order; ids differ. Raises UserError naming file and row."""

    @abstractmethod
    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """Items of the answers, by the ids of their questions; questions without an answer are left out."""

    def graded(self, answers: Mapping[str, str]) -> list[Graded]:
        """What `grade` makes of answers as models write them, their thoughts left out."""
        return self.grade({name: without_thoughts(text) for name, text in answers.items()})

    @abstractmethod
    def values(self, sums: Sums) -> dict[str, Numbers]:
        """Named values from summed counts; NaN where a denominator is 0."""

    def remarks(self, items: Sequence[Graded]) -> tuple[str, ...]:
        """What to know of the figures of these very items, one line each."""
        return ()

    def called(self, name: str) -> str:
        """What the metric is called where figures are told, from its own name."""
        return name

    def ready(self) -> None:  # noqa: B027 - most metrics need nothing but their files
        """Load what grading needs, before anything is generated. Raises UserError if that cannot be had."""

    def predictions(self, path: Path) -> dict[str, str]:
        """The answers of a prediction file by the ids of their questions. Raises UserError naming the row."""
        ids, texts = self.answer_fields
        return answers_in(path, ids, texts, self.copied)


def ratio(top: Numbers, bottom: Numbers) -> Numbers:
    """top / bottom; NaN where there is nothing below."""
    return np.divide(top, bottom, out=np.full_like(bottom, np.nan, dtype=np.float64), where=bottom > 0)
