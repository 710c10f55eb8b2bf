"""GREEN (arXiv 2405.03595): a judge counts what a report shares with a radiologist's, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from mmalign.metrics._judged import JudgedMetric, verdicts
from mmalign.metrics._lexicon import words_of
from mmalign.metrics._reading import asked, medium, rows_of, unique, word, words
from mmalign.metrics._seam import Graded, Numbers, Question, Sums, ratio
from mmalign.types import Message


@dataclass(frozen=True)
class _Row:
    turns: tuple[Message, ...]
    reference: str


@dataclass(frozen=True)
class Green(JudgedMetric):
    """green, the mean over reports of matched findings over matched findings and significant errors, by a
    judge; unread, the share of reports of which the verdict cannot be read, which are left out of green; and
    length_ratio, the mean length in words over that of the reference.

    `questions`: rows with `id`, `report` (the radiologist's), `image` or `images` (files in the folder
    `images`) and, if there, `question` instead of `prompt`. `judge`: a judge from rewards/ whose "score" is
    GREEN, 0 to 1, such as `green`; its prompt is the reference report, which it is told as `reference`, too,
    its response the model's.
    """

    tells: ClassVar[frozenset[str]] = frozenset({"reference"})
    costs: ClassVar[frozenset[str]] = frozenset({"unread"})

    # what is asked of rows without `question`
    prompt: str = "Write the findings section of a report on this study."

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt.strip():
            raise ValueError("prompt: must say something")

    @property
    def notes(self) -> tuple[str, ...]:
        """Who judges; and what a rising length may mean."""
        return (
            f"judged by {self.judge.get('name')}; published figures are those of another judge",
            "reports that grow longer match more findings: read green together with length_ratio",
        )

    @cached_property
    def _rows(self) -> dict[str, _Row]:
        found, ids = {}, []
        for where, row in rows_of(self.questions):
            name, report = word(row, "id", where), word(row, "report", where)
            ids.append(name)
            files = words(row, "images", where) if row.get("images") else [word(row, "image", where)]
            text = word(row, "question", where) if row.get("question") else self.prompt
            pictures = [medium("image", self.images, file) for file in files]
            found[name] = _Row(asked(*pictures, text), report)
        unique(ids, self.questions)
        return found

    def ask(self) -> Sequence[Question]:
        """A report on every study, its pictures first."""
        return [Question(name, row.turns, "green") for name, row in self._rows.items()]

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per report, all judged in one call."""
        names = [name for name in self._rows if name in answers]
        references = [self._rows[name].reference for name in names]
        given, told = [answers[name] for name in names], [{"reference": one} for one in references]
        prompts = [asked(one) for one in references]
        judged = verdicts(self.asked_judge, names, prompts, given, self.scale.bounds, told)
        return [self._item(name, answers[name], one) for name, one in zip(names, judged, strict=True)]

    def _item(self, name: str, answer: str, verdict: Mapping[str, float] | None) -> Graded:
        length = len(words_of(answer)) / max(1, len(words_of(self._rows[name].reference)))
        counts = {
            "reports": 1.0,
            "read": float(verdict is not None),
            "green": 0.0 if verdict is None else verdict["score"],
            "length": length,
        }
        return Graded(name, counts, shown={"verdict": None if verdict is None else dict(verdict)})

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """green, unread and length_ratio."""
        return {
            "green": ratio(sums["green"], sums["read"]),
            "unread": ratio(sums["reports"] - sums["read"], sums["reports"]),
            "length_ratio": ratio(sums["length"], sums["reports"]),
        }
