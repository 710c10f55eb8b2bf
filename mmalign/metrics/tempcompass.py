"""TempCompass (arXiv 2403.00476): action, speed, direction, order and change in clips, in four forms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmalign.metrics._choices import ChoiceItem, ChoiceMetric, letter_in
from mmalign.metrics._judged import Scale, judge_of, verdicts
from mmalign.metrics._letters import LETTERS, chosen, plain, unmarked
from mmalign.metrics._reading import asked, check_paths, from_one, json_of, medium, word
from mmalign.metrics._seam import AT, Graded
from mmalign.metrics._truth import truth
from mmalign.rewards._scoring import TOTAL, ready
from mmalign.types import Judge, UserError

CAPTIONS = "captioning"
FORMS = ("multi-choice", "yes_no", "caption_matching", CAPTIONS)
_ASK = (
    "A model described a video that you do not see. Below is a question about the video, with its right "
    "answer. Give 1 if somebody who has only the description can tell that this answer is right, and 0 if "
    "the description says something else or leaves it open."
)
_SCALE = Scale(
    0.0,
    1.0,
    whole=None,
    template="{prompt}\nThe description: {response}\n"
    'Give your reasons briefly. End with "Final Score: " and 0 or 1.',
)
_OPTION = re.compile(r"^\s*([A-F])\.\s*(.+?)\s*$", re.MULTILINE)
_NAMED = re.compile(r"^\s*((?:Caption|Option|Sentence) \w+)\s*:\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Tempcompass(ChoiceMetric):
    """acc over all questions, by form and by aspect, and macro, the mean of the forms.

    `questions`: for each form its file, {multi-choice: ..., yes_no: ..., caption_matching: ..., captioning:
    ...}, an object of videos, of aspects, of lists with `question` and `answer`. `videos`: the folder of the
    clips, named by the video's id and `suffix`. A caption that the model writes, form captioning, is graded
    by `judge`, a judge from rewards/ whose "score" is 0 or 1 (0.5 and above counts as right): it is asked in
    this project's words, with `mc_question` and `mc_answer` of the row, and sees no video.

    The published scorers read an answer that begins with yes or no, that is a letter, begins with "B." or
    "B)", or is the name or the text of a caption, and ask a language model about others. Of these, what is
    clear is read here by rule ("The answer is Caption A"), and the rest is not read.
    """

    asks = "tempcompass"
    copied = (("question", "mc_question"), ("answer",))

    # file of each form, {multi-choice: ..., yes_no: ..., caption_matching: ..., captioning: ...}
    questions: dict[str, str]
    videos: str  # folder of the clips, named by their ids
    suffix: str = ".mp4"  # ending of their names
    # section of a reward that grades captions 0 or 1; null: without form captioning
    judge: dict[str, Any] | None = field(default=None, metadata={"section": "judge"})

    def __post_init__(self) -> None:
        if not self.questions or set(self.questions) - set(FORMS):
            raise ValueError(f"questions: must name files by form, of {', '.join(FORMS)}")
        check_paths(videos=self.videos, **self.questions)
        if (CAPTIONS in self.questions) != (self.judge is not None):
            raise ValueError(f"judge: grades captions; give it with questions.{CAPTIONS}, and only then")

    @property
    def is_unchecked(self) -> bool:
        """Whether a judge's verdicts enter."""
        return self.judge is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Who grades captions."""
        return () if self.judge is None else (f"captions are graded by {self.judge.get('name')}",)

    @cached_property
    def asked_judge(self) -> Judge:
        """The judge. Raises UserError for one that tells another scale."""
        assert self.judge is not None, "there are captions"
        return judge_of(self.judge, _SCALE, "tempcompass")

    def ready(self) -> None:
        """Load the judge, if there is one."""
        if self.judge is not None:
            ready(self.asked_judge)

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
                    question = word(row, "question", where)
                    answer = word(row, "mc_answer" if form == CAPTIONS else "answer", where)
                    options = _options(form, question, where)
                    right = _right(form, answer, options, where)
                    turns = asked(medium("video", self.videos, video + self.suffix), question)
                    if form == CAPTIONS:  # what the judge is told of it stands where others have options
                        options = (f"{_ASK}\nQuestion: {word(row, 'mc_question', where)}\nAnswer: {answer}",)
                    groups = {"form": (form,), "aspect": (aspect,)}
                    name = f"{form}/{video}/{aspect}/{number}"
                    yield ChoiceItem(name, turns, right, options, video, groups, form)
        if not isinstance(tree, dict) or not tree:
            raise UserError(f"{path}: must be an object, video: aspect: list of questions")

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per question; captions last, all graded in one call."""
        written = [name for name in self.items if name in answers and name.startswith(f"{CAPTIONS}/")]
        found = super().grade({name: text for name, text in answers.items() if name not in written})
        if not written:
            return found
        told = [asked(self.items[name].options[0]) for name in written]
        given = verdicts(self.asked_judge, written, told, [answers[name] for name in written], _SCALE.bounds)
        return found + [
            self._caption(self.items[name], one) for name, one in zip(written, given, strict=True)
        ]

    def _caption(self, item: ChoiceItem, verdict: Mapping[str, float] | None) -> Graded:
        right = float(verdict is not None and verdict[TOTAL] >= 0.5)
        counts = {"asked": 1.0, "answered": float(verdict is not None), "right": right, "base": 1.0}
        counts |= {f"right{AT}{CAPTIONS}": right, f"base{AT}{CAPTIONS}": 1.0}
        shown = {"said": None if verdict is None else verdict[TOTAL], "right": item.answer}
        return Graded(item.id, counts, item.groups, item.cluster, shown)

    def predictions(self, path: Path) -> dict[str, str]:
        """Answers by form, video, aspect and number."""
        return from_one(super().predictions(path), self.items, path)

    def said(self, item: ChoiceItem, answer: str) -> str | None:
        """A letter, a yes or no, or the name of a caption, whichever the form asks for."""
        form = item.id.partition("/")[0]
        if form == "yes_no":
            if begun := re.match(r"\W*(yes|no)\b", answer, re.IGNORECASE):
                return begun[1].lower()
            found = truth(answer)
            return None if found is None else "yes" if found else "no"
        if form == "multi-choice":
            return super().said(item, answer)
        return _caption_in(answer, _named(item.options))


def _options(form: str, question: str, where: str) -> tuple[str, ...]:
    if form == CAPTIONS:
        return ()
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
    if form == CAPTIONS:
        return answer
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


_NUMBER = (
    r"(\b(?:answer|match|choice|option|caption|sentence|one)\s*(?:is|:)\s*)"
    r"[\"'(]?#(?!\w|[.,]\d|[^\S\n]+(?!because|since|as\b)\w)[\"')]?"
)
"""A number # that the answer is said to be."""


def _caption_in(answer: str, named: list[tuple[str, str]]) -> str | None:
    """The name of the one option that an answer chooses by its name, "Caption A", by the end of that, "A" or
    "(A)", or by its text."""
    by_label = {plain(name.split()[-1]): name for name, _ in named}
    said = {plain(one) for one in unmarked(answer)}
    if len(said) == 1 and (alone := by_label.get(min(said))):
        return alone
    letters = [label.upper() for label in by_label]
    if sorted(letters) != list(LETTERS[: len(named)]):  # they are numbers
        letters = list(LETTERS[: len(named)])
    for (name, _), letter in zip(named, letters, strict=True):
        answer = re.sub(rf"\b{re.escape(name)}\b", letter, answer, flags=re.IGNORECASE)
        if (
            label := name.split()[-1]
        ).isdigit():  # 2 for Option 2: said to be the answer, or a line of its own
            answer = re.sub(_NUMBER.replace("#", label), rf"\g<1>{letter}", answer, flags=re.IGNORECASE)
            answer = re.sub(rf"(?m)^\W*{label}\W*$", letter, answer)
    texts = dict(zip(letters, (text for _, text in named), strict=True))
    found = chosen(answer, [texts[letter] for letter in sorted(texts)])
    return None if found is None else named[letters.index(found)][0]
