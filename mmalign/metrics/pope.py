"""POPE (arXiv 2305.10355): is there such an object in the picture, asked of present and absent ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from mmalign.metrics._reading import (
    Copied,
    asked,
    check_paths,
    from_one,
    medium,
    need,
    one_of,
    rows_of,
    unique,
    word,
)
from mmalign.metrics._seam import Graded, Metric, Numbers, Question, Sums
from mmalign.metrics._yes_no import YesNoItem, grade_yes_no, yes_no_values
from mmalign.types import Message

SPLITS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class _Row:
    turns: tuple[Message, ...]
    number: str
    item: YesNoItem


@dataclass(frozen=True)
class Pope(Metric):
    """Accuracy, precision, recall and F1 with yes as the positive answer, and the share of yes.

    `questions`: a file in POPE's form (`question_id`, `image`, `text`, `label` in every line), or one for
    each split, {random: ..., popular: ..., adversarial: ...}; the split of a single one is told from its
    name. `images`: the folder of the pictures. An answer says no if its first sentence has a word No, no or
    not, and yes otherwise, an empty one too; `unclear` is the share that has neither word.
    """

    costs: ClassVar[frozenset[str]] = frozenset({"unclear"})
    answer_fields: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (("question_id",), ())
    copied: ClassVar[Copied] = (("label",), ("text",))

    # the benchmark's file, or one for each split, {random: ..., popular: ..., adversarial: ...}
    questions: str | dict[str, str]
    images: str  # folder of the pictures

    def __post_init__(self) -> None:
        files = self.questions if isinstance(self.questions, dict) else {"questions": self.questions}
        if not files:
            raise ValueError("questions: name at least one file")
        check_paths(**files, images=self.images)

    @property
    def notes(self) -> tuple[str, ...]:
        """The benchmark's known limit."""
        return ("some of POPE's labels are wrong; RePOPE (arXiv 2504.15707) has them mended",)

    @cached_property
    def _rows(self) -> dict[str, _Row]:
        files = (
            self.questions if isinstance(self.questions, dict) else {_split(self.questions): self.questions}
        )
        found: dict[str, _Row] = {}
        for split, path in files.items():
            ids = []
            for where, row in rows_of(path):
                need(row, ("question_id", "image", "text", "label"), where)
                number, image = word(row, "question_id", where), word(row, "image", where)
                name = f"{split}/{number}" if split else number
                ids.append(name)
                turns = asked(medium("image", self.images, image), word(row, "text", where))
                groups = {"split": (split,)} if split else {}
                label = one_of(row, "label", ("yes", "no"), where)
                found[name] = _Row(turns, number, YesNoItem(name, label, image, groups))
            unique(ids, path)
        return found

    def ask(self) -> Sequence[Question]:
        """Every question, the picture before it."""
        return [Question(name, row.turns, "pope") for name, row in self._rows.items()]

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per question; those of one picture are drawn together."""
        items = {name: row.item for name, row in self._rows.items()}
        return grade_yes_no(items, answers)

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """acc, precision, recall, f1, yes_ratio and unclear."""
        return yes_no_values(sums)

    def predictions(self, path: Path) -> dict[str, str]:
        """Answers by id; a bare question_id will do where no two splits share it."""
        numbers: dict[str, list[str]] = {}
        for name, row in self._rows.items():
            numbers.setdefault(row.number, []).append(name)
        alone = {number: names[0] for number, names in numbers.items() if len(names) == 1}
        given = {alone.get(name, name): text for name, text in super().predictions(path).items()}
        return from_one(given, self._rows, path)


def _split(path: str) -> str:
    """The split that a file's name tells; empty if it tells none."""
    found = [split for split in SPLITS if split in Path(path).name]
    return found[0] if len(found) == 1 else ""
