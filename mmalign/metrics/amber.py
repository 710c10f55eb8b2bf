"""AMBER (arXiv 2311.07397): what descriptions make up, and yes or no about objects, attributes, relations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmalign.metrics._lexicon import singular_of, words_of
from mmalign.metrics._reading import (
    asked,
    check_paths,
    from_one,
    json_of,
    medium,
    one_of,
    rows_of,
    text_of,
    unique,
    word,
    words,
)
from mmalign.metrics._seam import Graded, Metric, Numbers, Question, Sums, ratio
from mmalign.types import Message, UserError

_SMALL = 1e-4  # what the original adds below the bar of F1
_KINDS = {
    "generative": "generative",
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
_ATTRIBUTES = ("state", "number", "action")


@dataclass(frozen=True)
class _Row:
    turns: tuple[Message, ...]
    image: str
    kind: str
    truth: tuple[str, ...]  # one word, yes or no, where the question is not generative
    target: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Association:
    """Words by the words they may stand for; what is known at all."""

    table: Mapping[str, frozenset[str]]
    known: frozenset[str] = field(default_factory=frozenset)

    def means(self, noun: str, names: Collection[str]) -> list[str]:
        """Which of the names a noun may stand for."""
        return [name for name in names if noun == name or noun in self.table.get(name, ())]


@dataclass(frozen=True)
class Amber(Metric):
    """Of descriptions chair, cover, hal and cog; of yes or no answers acc, precision, recall and f1 with "No"
    as the positive answer; and amber_score, (100 - chair + f1) / 2. All in percent.

    `questions`: the query file (`id`, `image`, `query`); `annotations`: the benchmark's annotations.json
    (null: the same rows say `type`, `truth` and `hallu`); `association`: its relation.json; `safe_words`: its
    list of words that never count, one per line. chair is the share of named things that are not there, cover
    that of things there that are named, hal that of descriptions with something not there, cog that of the
    things people expect to be made up that are; a thing listed twice counts once. An answer must be Yes or No
    to the letter to count for either; with `exact: false` its first word is read.
    """

    costs: ClassVar[frozenset[str]] = frozenset({"chair", "hal", "cog", "neither"})

    questions: str  # the query file: `id`, `image`, `query`
    images: str  # folder of the pictures
    association: str  # the benchmark's relation.json
    # the benchmark's annotations.json; null: the rows of questions say `type`, `truth` and `hallu`
    annotations: str | None = None
    safe_words: str | None = None  # the benchmark's list of words that never count, one per line; null: none
    exact: bool = True  # an answer must be Yes or No to the letter; false: its first word is read

    def __post_init__(self) -> None:
        check_paths(questions=self.questions, images=self.images, association=self.association)
        check_paths(annotations=self.annotations, safe_words=self.safe_words)

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from the original."""
        return (
            "words are matched by the association table alone, without a tagger and without word vectors: a "
            "thing that the table does not know is not counted",
            "amber_score is (100 - chair + f1) / 2",
        )

    @cached_property
    def _rows(self) -> dict[str, _Row]:
        marks = {}
        if self.annotations is not None:
            marks = {word(row, "id", where): (where, row) for where, row in rows_of(self.annotations)}
        found: dict[str, _Row] = {}
        ids = []
        for where, row in rows_of(self.questions):
            name, image = word(row, "id", where), word(row, "image", where)
            ids.append(name)
            if self.annotations is not None and name not in marks:
                raise UserError(f"{where}: {self.annotations} has no id {name}")
            where, mark = marks.get(name, (where, row))
            kind = _KINDS[one_of(mark, "type", tuple(_KINDS), where)]
            turns = asked(medium("image", self.images, image), word(row, "query", where))
            if kind == "generative":
                things, target = (tuple(dict.fromkeys(words(mark, key, where))) for key in ("truth", "hallu"))
                found[name] = _Row(turns, image, kind, things, target)
            else:
                found[name] = _Row(turns, image, kind, (one_of(mark, "truth", ("yes", "no"), where),))
        unique(ids, self.questions)
        return found

    @cached_property
    def _words(self) -> _Association:
        tree = json_of(Path(self.association).expanduser())
        if not isinstance(tree, dict) or not all(isinstance(one, list) for one in tree.values()):
            raise UserError(f"{self.association}: must be an object of lists, word: [words]")
        table = {str(name): frozenset(map(str, listed)) for name, listed in tree.items()}
        return _Association(table, frozenset(table).union(*table.values()))

    @cached_property
    def _safe(self) -> frozenset[str]:
        if self.safe_words is None:
            return frozenset()
        return frozenset(text_of(Path(self.safe_words).expanduser()).split())

    def ask(self) -> Sequence[Question]:
        """Every query, the picture before it."""
        return [Question(name, row.turns, "amber") for name, row in self._rows.items()]

    def predictions(self, path: Path) -> dict[str, str]:
        """Answers by id; the benchmark's count from 1."""
        return from_one(super().predictions(path), self._rows, path)

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per query; those of one picture are drawn together."""
        return [
            self._description(name, row, answers[name])
            if row.kind == "generative"
            else self._judgement(name, row, answers[name])
            for name, row in self._rows.items()
            if name in answers
        ]

    def _description(self, name: str, row: _Row, answer: str) -> Graded:
        said = [noun for noun in map(self._noun, words_of(answer)) if noun]
        covered: set[str] = set()
        made_up: set[str] = set()
        unsafe = []
        for noun in said:
            if noun in self._safe:
                continue
            right = self._words.means(noun, row.truth)
            if right:
                covered |= {noun} if noun in right else set(right[:1])
                continue
            made_up |= set(self._words.means(noun, row.target))
            unsafe.append(noun)
        counts = {
            "nouns": float(len(said)),
            "unsafe": float(len(unsafe)),
            "covered": float(len(covered)),
            "there": float(len(row.truth)),
            "descriptions": 1.0,
            "made_up": float(bool(unsafe)),
            "expected": float(len(made_up)),
            "targets": float(len(row.target)),
        }
        shown = {"unsafe": unsafe, "covered": sorted(covered), "expected": sorted(made_up)}
        return Graded(name, counts, {"type": ("generative",)}, row.image, shown)

    def _noun(self, word: str) -> str:
        """The form of a word that the table knows; empty if it knows none."""
        forms = (singular_of(word), word, word.removesuffix("s"))
        return next((form for form in forms if form in self._words.known), "")

    def _judgement(self, name: str, row: _Row, answer: str) -> Graded:
        said = answer if self.exact else next(iter(words_of(answer)), "").capitalize()
        right = said == row.truth[0].capitalize()
        counts = {
            "judged": 1.0,
            "right": float(right),
            "said_no": float(said == "No"),
            "true_no": float(row.truth[0] == "no"),
            "right_no": float(right and said == "No"),
            "neither": float(said not in ("Yes", "No")),
        }
        kinds = (row.kind, "attribute") if row.kind in _ATTRIBUTES else (row.kind,)
        return Graded(name, counts, {"type": kinds}, row.image, {"said": said, "truth": row.truth[0]})

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """The generative values, the discriminative ones, and both together."""
        precision, recall = ratio(sums["right_no"], sums["said_no"]), ratio(sums["right_no"], sums["true_no"])
        chair = 100 * ratio(sums["unsafe"], sums["nouns"])
        f1 = 100 * np.where(np.isnan(recall), np.nan, _f1(np.nan_to_num(precision), np.nan_to_num(recall)))
        return {
            "chair": chair,
            "cover": 100 * ratio(sums["covered"], sums["there"]),
            "hal": 100 * ratio(sums["made_up"], sums["descriptions"]),
            "cog": 100 * ratio(sums["expected"], sums["targets"]),
            "acc": 100 * ratio(sums["right"], sums["judged"]),
            "precision": 100 * precision,
            "recall": 100 * recall,
            "f1": f1,
            "neither": 100 * ratio(sums["neither"], sums["judged"]),
            "amber_score": (100 - chair + f1) / 2,
        }


def _f1(precision: Numbers, recall: Numbers) -> Numbers:
    return 2 * precision * recall / (precision + recall + _SMALL)
