"""MM-Vet (arXiv 2308.02490): a judge grades open answers from 0 to 1, by the capabilities they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from mmalign.metrics._judged import JudgedMetric, Scale, verdicts
from mmalign.metrics._reading import Copied, asked, json_of, medium, word, words
from mmalign.metrics._seam import Graded, Numbers, Question, Sums, ratio
from mmalign.types import Message, UserError

_ASK = (
    "Grade the answer to a question about a picture against the right one, from 0.0 (wrong) to 1.0 (right) "
    "in steps of 0.1. <AND> in the right answer means that all of it is needed, <OR> that any of it will do."
)
_END = (
    "{prompt}\nAnswer: {response}\n"
    'Give your reasons briefly. End with "Final Score: " and one number from 0.0 to 1.0.'
)


@dataclass(frozen=True)
class _Row:
    turns: tuple[Message, ...]
    told: tuple[Message, ...]
    image: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class MmVet(JudgedMetric):
    """score, the mean grade times 100, of all answers and of those that need each capability; unread, the
    share of answers whose verdict cannot be read, which are left out of score.

    `questions`: the benchmark's mm-vet.json, an object of ids with `imagename`, `question`, `answer` and
    `capability`; `images`: the folder of the pictures. `judge`: a judge from rewards/ whose "score" is the
    grade, 0 to 1, as that of `llm_judge` here is. It is asked in this project's words with the right answer,
    not by the benchmark's examples.
    """

    scale: ClassVar[Scale] = Scale(0.0, 1.0, whole=False, template=_END)
    costs: ClassVar[frozenset[str]] = frozenset({"unread"})
    copied: ClassVar[Copied] = (("question", "capability"), ("answer",))

    @property
    def notes(self) -> tuple[str, ...]:
        """Who grades."""
        return (f"graded by {self.judge.get('name')}; published grades are another judge's",)

    @cached_property
    def _rows(self) -> dict[str, _Row]:
        tree = json_of(Path(self.questions).expanduser())
        if not isinstance(tree, dict) or not tree:
            raise UserError(f"{self.questions}: must be an object of questions by their ids")
        found = {}
        for name, row in tree.items():
            where = f"{self.questions} {name}"
            if not isinstance(row, dict):
                raise UserError(f"{where}: must be an object with imagename, question, answer and capability")
            question, image = word(row, "question", where), word(row, "imagename", where)
            told = f"{_ASK}\nQuestion: {question}\nRight answer: {word(row, 'answer', where)}"
            turns = asked(medium("image", self.images, image), question)
            found[name] = _Row(turns, asked(told), image, tuple(words(row, "capability", where)))
        return found

    def ask(self) -> Sequence[Question]:
        """Every question, the picture before it."""
        return [Question(name, row.turns, "mm_vet") for name, row in self._rows.items()]

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per question, all graded in one call."""
        names = [name for name in self._rows if name in answers]
        told = [self._rows[name].told for name in names]
        graded = verdicts(self.asked_judge, names, told, [answers[name] for name in names], self.scale.bounds)
        return [self._item(name, one) for name, one in zip(names, graded, strict=True)]

    def _item(self, name: str, verdict: Mapping[str, float] | None) -> Graded:
        grade = 0.0 if verdict is None else verdict["score"]
        counts = {"asked": 1.0, "read": float(verdict is not None), "grade": grade}
        row = self._rows[name]
        shown = {"grade": None if verdict is None else grade}
        return Graded(name, counts, {"capability": row.capabilities}, row.image, shown)

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """score and unread."""
        return {
            "score": 100 * ratio(sums["grade"], sums["read"]),
            "unread": ratio(sums["asked"] - sums["read"], sums["asked"]),
        }

    def predictions(self, path: Path) -> dict[str, str]:
        """Answers by id: the benchmark's object of ids with texts, or rows."""
        tree = json_of(path) if path.suffix == ".json" else None
        if isinstance(tree, dict) and all(isinstance(text, str) for text in tree.values()):
            return {str(name): text for name, text in tree.items()}
        return super().predictions(path)
