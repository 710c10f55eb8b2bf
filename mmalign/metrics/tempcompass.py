"""TempCompass (arXiv 2403.00476): action, speed, direction, order and change in clips, in three forms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmalign.metrics._choices import ChoiceItem, ChoiceMetric, letter_in, plain
from mmalign.metrics._lexicon import words_of
from mmalign.metrics._reading import asked, check_paths, json_of, medium, word
from mmalign.types import UserError

FORMS = ("multi-choice", "yes_no", "caption_matching")
_OPTION = re.compile(r"^\s*([A-F])\.\s*(.+?)\s*$", re.MULTILINE)
_NAMED = re.compile(r"^\s*((?:Caption|Option|Sentence) \w+)\s*:\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Tempcompass(ChoiceMetric):
    """acc over all questions, by form and by aspect, and macro, the mean of the forms.

    `questions`: for each form its file, {multi-choice: ..., yes_no: ..., caption_matching: ...}, an object
    of videos, of aspects, of lists with `question` and `answer`. `videos`: the folder of the clips, named by
    the video's id and `suffix`. Captions that a model writes are graded by a language model in the benchmark
    and are not asked here. No published scorer was read for how answers are parsed.
    """

    asks = "tempcompass"

    questions: dict[str, str]
    videos: str
    suffix: str = ".mp4"

    def __post_init__(self) -> None:
        if not self.questions or set(self.questions) - set(FORMS):
            raise ValueError(f"questions: must name files by form, of {', '.join(FORMS)}")
        check_paths(videos=self.videos, **self.questions)

    @cached_property
    def items(self) -> Mapping[str, ChoiceItem]:
        """Every question with its clip in front; ids are form/video/aspect/number."""
        return {item.id: item for form, path in self.questions.items() for item in self._form(form, path)}

    def _form(self, form: str, path: str) -> Iterator[ChoiceItem]:
        tree = json_of(Path(path).expanduser())
        for video, aspects in tree.items() if isinstance(tree, dict) else ():
            for aspect, listed in aspects.items() if isinstance(aspects, dict) else ():
                for number, row in enumerate(listed if isinstance(listed, list) else (), 1):
                    where = f"{path} {video} {aspect} {number}"
                    if not isinstance(row, dict):
                        raise UserError(f"{where}: must be an object with question and answer")
                    question, answer = word(row, "question", where), word(row, "answer", where)
                    options = _options(form, question, where)
                    right = _right(form, answer, options, where)
                    turns = asked(medium("video", self.videos, video + self.suffix), question)
                    groups = {"form": (form,), "aspect": (aspect,)}
                    name = f"{form}/{video}/{aspect}/{number}"
                    yield ChoiceItem(name, turns, right, options, video, groups, form)
        if not isinstance(tree, dict) or not tree:
            raise UserError(f"{path}: must be an object, video: aspect: list of questions")

    def said(self, item: ChoiceItem, answer: str) -> str | None:
        """A letter, a yes or no, or the name of a caption, whichever the form asks for."""
        form = item.id.partition("/")[0]
        if form == "yes_no":
            return next((one for one in words_of(answer) if one in ("yes", "no")), None)
        if form == "multi-choice":
            return super().said(item, answer)
        named = [name for name, text in _named(item.options) if _is_named(answer, name, text)]
        return named[0] if len(named) == 1 else None


def _options(form: str, question: str, where: str) -> tuple[str, ...]:
    if form == "yes_no":
        return ("yes", "no")
    pattern = _OPTION if form == "multi-choice" else _NAMED
    found = tuple(
        f"{name}: {text}" if form != "multi-choice" else text for name, text in pattern.findall(question)
    )
    if len(found) < 2:
        raise UserError(f"{where}: the question must list its options on lines of their own")
    return found


def _right(form: str, answer: str, options: tuple[str, ...], where: str) -> str:
    if form == "multi-choice":
        return letter_in(answer, len(options), where, "answer")
    if form == "yes_no":
        if plain(answer) not in options:
            raise UserError(f"{where}: answer must be yes or no, got {answer!r:.60}")
        return plain(answer)
    named = [name for name, _ in _named(options) if plain(answer).startswith(plain(name))]
    if len(named) != 1:
        raise UserError(f"{where}: answer must begin with the name of one option, got {answer!r:.60}")
    return named[0]


def _named(options: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, text) for name, _, text in (one.partition(": ") for one in options)]


def _is_named(answer: str, name: str, text: str) -> bool:
    """Whether an answer begins with an option's name, or is its text."""
    said = f"{plain(answer)} "
    return said.startswith(plain(name) + " ") or said == f"{plain(text)} "
