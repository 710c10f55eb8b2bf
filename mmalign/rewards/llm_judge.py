"""A language model as a judge: a writer, the template of its question, and a strict reading of its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from mmalign.rewards._said import RATING, Verdict, read_number, read_verdict
from mmalign.rewards._scoring import TOTAL
from mmalign.rewards._templates import asked_text, check_template, media_of, places_of, question
from mmalign.rewards._written import WrittenJudge
from mmalign.types import Message, Part, UserError

_TOLD = frozenset({"reference", "caption"})
_BOTH = frozenset({"first", "second"})
SCORE = (
    "Below are a question and an answer to it. Judge how helpful, correct and complete the answer is, and "
    "how well it fits what is shown, if anything is.\nQuestion: {prompt}\nAnswer: {response}\n"
    'Give your reasons briefly. End with "Final Score: " and one whole number from 1, the worst, to 10.'
)
COMPARE = (
    "Below are a question and two answers to it. Judge which of the two is more helpful, correct and "
    "complete, and fits better what is shown, if anything is.\nQuestion: {prompt}\nAnswer 1: {first}\n"
    'Answer 2: {second}\nGive your reasons briefly. End with "Answer 1 is better", "Answer 2 is better" or '
    '"equally good".'
)


@dataclass(frozen=True)
class LlmJudge(WrittenJudge):
    """The number that a writer gives a response, when it is asked by a template and answers in a form.

    `template` has the place {response} and may have {prompt}, the text of the prompt, and {reference} and
    {caption}, which builds tell that know them. Pictures and clips of the prompt stand before it, unless
    `media` is false; a response that is one stands in its place. `pattern`: a regular expression, read
    without regard to case, whose one group is the number; it counts in its `last` match, or must be the same
    in all (`only`), and lies within `low` and `high`, whole numbers alone with `whole`. What is not so is no
    verdict: callers leave it out and count it. A response is cut behind its first `max_words` words. With
    `compare_template`, one with {first} and {second}, two answers are compared in one question, and the last
    sentence of the answer says that answer 1 or answer 2 "is better" or that both are "equally good"; callers
    ask in both orders.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"text", "image", "video"})

    # what is asked about a response: {response}; may have {prompt}, {reference} and {caption}
    template: str = SCORE
    pattern: str = RATING  # regular expression whose one group is the number, read without regard to case
    which: Literal["last", "only"] = "last"  # of several matches the last counts, or all must say the same
    low: float = 1.0  # least number that is a verdict
    high: float = 10.0  # greatest number that is a verdict
    whole: bool = True  # whole numbers alone are verdicts
    # what is asked to compare two, with {first} and {second}; null: scores are compared
    compare_template: str | None = None
    media: bool = True  # show the prompt's pictures and clips
    max_words: int | None = None  # words of a response that are shown; null: all

    def __post_init__(self) -> None:
        super().__post_init__()
        known = _TOLD | {"prompt"}
        check_template("template", self.template, frozenset({"response"}), known | {"response"})
        if self.compare_template is not None:
            check_template("compare_template", self.compare_template, _BOTH, known | _BOTH)
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern: no regular expression ({error}), got {self.pattern!r}") from error
        if groups != 1:
            raise ValueError(f"pattern: must have one group, the number, got {groups} in {self.pattern!r}")
        if not self.low < self.high:
            raise ValueError(f"low: must be below high {self.high:g}, got {self.low:g}")
        if self.max_words is not None and self.max_words < 1:
            raise ValueError(f"max_words: must be above 0, got {self.max_words}")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.IGNORECASE)

    @property
    def wants(self) -> frozenset[str]:
        """What the templates ask for besides prompt and response."""
        return (places_of(self.template) | places_of(self.compare_template or "")) & _TOLD

    @property
    def compares(self) -> bool:
        """True if the judge can be asked which of two answers is better."""
        return self.compare_template is not None

    def verdicts_given(
        self,
        prompts: Sequence[tuple[Message, ...]],
        responses: Sequence[Part],
        told: Sequence[Mapping[str, str]],
    ) -> list[Mapping[str, float] | None]:
        """ "score", the number that the writer gives every response; None where none can be read."""
        questions = [
            self._question(self.template, prompt, more, {"response": response})
            for prompt, response, more in zip(prompts, responses, told, strict=True)
        ]
        return [self._read(text) for text in self.said(questions)]

    def compare_many(
        self,
        prompts: Sequence[tuple[Message, ...]],
        twos: Sequence[tuple[Part, Part]],
        told: Sequence[Mapping[str, str]],
    ) -> list[Verdict | None]:
        """Which of two responses to a prompt is better, in the order given; None where it cannot be read.
        Raises UserError without a template for it."""
        if self.compare_template is None:
            raise UserError("llm_judge: compare_template: is needed to compare two answers")
        questions = [
            self._question(self.compare_template, prompt, more, {"first": first, "second": second})
            for prompt, (first, second), more in zip(prompts, twos, told, strict=True)
        ]
        texts = self.said(questions)
        found = [None if text is None else read_verdict(text) for text in texts]
        for text, verdict in zip(texts, found, strict=True):
            if verdict is None:
                self.no_verdict(text, "judge.compare_template, which asks for what is read")
        return found

    def _question(
        self,
        template: str,
        prompt: tuple[Message, ...],
        told: Mapping[str, str],
        answers: Mapping[str, Part],
    ) -> tuple[Message, ...]:
        cut = {name: self._cut(part) for name, part in answers.items()}
        media = media_of(prompt) if self.media else ()
        return question(template, {"prompt": asked_text(prompt), **told, **cut}, media)

    def _cut(self, response: Part) -> Part:
        if response.kind != "text" or self.max_words is None:
            return response
        words = list(re.finditer(r"\S+", response.data))
        end = words[self.max_words - 1].end() if len(words) > self.max_words else None
        return Part("text", response.data[:end])

    def _read(self, text: str | None) -> Mapping[str, float] | None:
        found = None if text is None else read_number(text, self._pattern, self.which)
        if found is None or not self.low <= found <= self.high or (self.whole and found != int(found)):
            self.no_verdict(text, "judge.pattern, judge.low, judge.high and judge.template")
            return None
        return {TOTAL: found}
