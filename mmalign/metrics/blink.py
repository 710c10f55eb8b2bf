"""BLINK (arXiv 2404.12390): visual questions with choices, 14 tasks over one to four pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mmalign.metrics._choices import ChoiceItem, ChoiceMetric, letter_in, lettered
from mmalign.metrics._reading import asked, check_paths, medium, rows_of, unique, word, words
from mmalign.types import UserError

_PICTURES = ("image_1", "image_2", "image_3", "image_4")


@dataclass(frozen=True)
class Blink(ChoiceMetric):
    """acc over all questions, and macro, its mean over the tasks, which is what the benchmark reports.

    `questions`: lines with `idx`, `sub_task`, `prompt` (or `question`, to which the choices are then added),
    `choices`, `answer` as "(B)", and `image_1` to `image_4`, files in the folder `images`. It comes as
    parquet; write its pictures to files first. No published scorer was read for how answers are parsed.
    """

    asks = "blink"
    copied = (("question", "prompt", "choices"), ("answer",))

    questions: str  # lines of JSON, the benchmark's rows with names of picture files
    images: str  # folder of the pictures

    def __post_init__(self) -> None:
        check_paths(questions=self.questions, images=self.images)

    @cached_property
    def items(self) -> Mapping[str, ChoiceItem]:
        """Every question with its pictures in front."""
        found, ids = {}, []
        for where, row in rows_of(self.questions):
            name, task, options = (
                word(row, "idx", where),
                word(row, "sub_task", where),
                words(row, "choices", where),
            )
            ids.append(name)
            pictures = [
                medium("image", self.images, word(row, key, where)) for key in _PICTURES if row.get(key)
            ]
            if not pictures:
                raise UserError(f"{where}: image_1 must name a picture")
            text = (
                word(row, "prompt", where)
                if row.get("prompt")
                else f"{word(row, 'question', where)}\n{lettered(options)}"
            )
            answer = letter_in(word(row, "answer", where), len(options), where, "answer")
            groups = {"task": (task,)}
            found[name] = ChoiceItem(name, asked(*pictures, text), answer, tuple(options), "", groups, task)
        unique(ids, self.questions)
        return found
