"""Mantis-Eval (arXiv 2405.01483): questions about several pictures, with choices or a short answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mmalign.metrics._choices import ChoiceItem, ChoiceMetric, letter_in, lettered, placed
from mmalign.metrics._letters import bare
from mmalign.metrics._reading import asked, check_paths, medium, rows_of, unique, word, words


@dataclass(frozen=True)
class Mantis(ChoiceMetric):
    """acc over all questions, by type and category.

    `questions`: rows with `id`, `question` (<image> where a picture goes; without any they go in front),
    `images` (names of files in the folder `images`), `options` (none for a short answer), `answer` (a letter,
    or the short answer, which must be met but for case and punctuation) and, if there, `question_type` and
    `category`. No published scorer was read for how answers are parsed.
    """

    asks = "mantis"
    copied = (("question", "options"), ("answer",))

    questions: str  # lines of JSON, the benchmark's rows with names of picture files
    images: str  # folder of the pictures

    def __post_init__(self) -> None:
        check_paths(questions=self.questions, images=self.images)

    @cached_property
    def items(self) -> Mapping[str, ChoiceItem]:
        """Every question with its pictures in their places."""
        found, ids = {}, []
        for where, row in rows_of(self.questions):
            name, text, answer = (word(row, key, where) for key in ("id", "question", "answer"))
            ids.append(name)
            options = [bare(one) for one in words(row, "options", where)] if row.get("options") else []
            pictures = [medium("image", self.images, one) for one in words(row, "images", where)]
            if options:
                answer = letter_in(answer, len(options), where, "answer")
                text += f"\n{lettered(options)}\nAnswer with the letter of the right option."
            else:
                text += "\nAnswer in a word or a short phrase."
            groups = {key: (word(row, key, where),) for key in ("question_type", "category") if row.get(key)}
            turns = asked(*placed(text, pictures, where))
            found[name] = ChoiceItem(name, turns, answer, tuple(options), "", groups)
        unique(ids, self.questions)
        return found
