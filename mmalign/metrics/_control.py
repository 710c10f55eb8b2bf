"""Controls: the questions of a metric asked once more about something else, and what that costs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.metrics._seam import Graded, Metric, Numbers, Question, Sums
from mmalign.types import UserError

_PLAIN, _CHANGED = "plain ", "changed "


class Control(Metric):
    """The values of another metric, the same values under a view, {name}_WORD, and by how much they fall,
    {name}_drop: near 0 says that the answers do not come from what was changed. `word` names the view."""

    word: ClassVar[str]

    @property
    @abstractmethod
    def section(self) -> Mapping[str, Any]:
        """The other metric as a section of a config."""

    @abstractmethod
    def changed(self, questions: Sequence[Question]) -> list[Question]:
        """The same questions under the view, in order, with the ids that they have; `of` and `asks` are set
        by the caller."""

    @cached_property
    def inner(self) -> Metric:
        """The other metric. Whether code outside the package may be named was decided before."""
        built: Metric = build_named(KINDS["metrics"], self.section, "of", allow_code=True)
        if isinstance(built, Control):
            raise UserError("of: must be a metric that asks its own questions, not a control")
        return built

    @property
    def less_is_better(self) -> frozenset[str]:
        """Those of the other metric, plain and under the view."""
        known = self.inner.less_is_better
        return known | {f"{name}_{self.word}" for name in known}

    @property
    def is_unchecked(self) -> bool:
        """Whether the other metric is."""
        return self.inner.is_unchecked

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the other metric."""
        return self.inner.notes

    def remarks(self, items: Sequence[Graded]) -> tuple[str, ...]:
        """Those of the other metric on its own items, and on those under the view."""
        plain = self.inner.remarks(_without(_PLAIN, items))
        changed = self.inner.remarks(_without(_CHANGED, items))
        return (*plain, *(f"{self.word}: {line}" for line in changed))

    def called(self, name: str) -> str:
        """The other metric's name before its own: pope_image_swap."""
        other = str(self.section.get("name")).rpartition(":")[2].rpartition(".")[2]
        return f"{other}_{name}"

    def ready(self) -> None:
        """Load what the other metric needs."""
        self.inner.ready()

    def ask(self) -> Sequence[Question]:
        """Every question of the other metric, and every one again under the view; the plain ones are answered
        together with the other metric's own."""
        plain = list(self.inner.ask())
        again = self.changed(plain)
        assert len(again) == len(plain), "a view changes every question"
        return [
            *plain,
            *(
                replace(one, id=f"{one.id}#{self.word}", of=one.id, asks=f"{one.asks}.{self.word}")
                for one in again
            ),
        ]

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """The other metric's items of both, of questions that were answered twice."""
        end = f"#{self.word}"
        again = {name.removesuffix(end): text for name, text in answers.items() if name.endswith(end)}
        both = {name: text for name, text in answers.items() if name in again}
        plain = _under(_PLAIN, self.inner.grade(both), "")
        return plain + _under(_CHANGED, self.inner.grade({name: again[name] for name in both}), end)

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """The other metric's values, those under the view, and the differences."""
        before = self.inner.values(sums.under(_PLAIN))
        after = self.inner.values(sums.under(_CHANGED))
        found = dict(before)
        for name in before:
            if name in after:
                found |= {f"{name}_{self.word}": after[name], f"{name}_drop": before[name] - after[name]}
        return found

    def predictions(self, path: Path) -> dict[str, str]:
        """Answers of a file: those under the view have ids that end in #WORD."""
        return self.inner.predictions(path)


def _under(prefix: str, items: Sequence[Graded], end: str) -> list[Graded]:
    return [
        replace(
            one,
            id=one.id + end,
            counts={prefix + name: count for name, count in one.counts.items()},
            cluster=one.cluster or one.id,
        )
        for one in items
    ]


def _without(prefix: str, items: Sequence[Graded]) -> list[Graded]:
    """The items whose counts begin so, without that beginning."""
    return [
        replace(one, counts={name.removeprefix(prefix): count for name, count in one.counts.items()})
        for one in items
        if any(name.startswith(prefix) for name in one.counts)
    ]
