"""Judges of two answers, and judges that answer in words.

A judge of a build scores single answers. One that also compares two, or one that writes its verdicts as text
as a generative model does, has the methods below besides; wherever it lacks them its scores decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mmalign.rewards._said import Verdict as Verdict
from mmalign.rewards._said import read_rating as read_rating
from mmalign.rewards._said import read_verdict as read_verdict
from mmalign.rewards._scoring import TOTAL, score_all
from mmalign.types import Judge, Message, Part, UserError


@runtime_checkable
class PointJudge(Protocol):
    """Scores single answers; what every judge of `rewards/` does."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """Named scores, "score" among them."""


@runtime_checkable
class PairJudge(Protocol):
    """Compares two answers to one prompt."""

    def compare(self, prompt: tuple[Message, ...], first: Part, second: Part) -> Verdict | None:
        """Which answer is better, or a tie; None where the verdict could not be read."""


@runtime_checkable
class SpeakingJudge(Protocol):
    """Says in words what it finds, as a generative model does; `read_verdict` and `read_rating` read it."""

    def rank(self, prompt: tuple[Message, ...], first: Part, second: Part) -> str:
        """A text holding "Image 1 is better", "Image 2 is better" or "equally good"; for other answers than
        pictures with the word video, response or answer."""

    def rate(self, prompt: tuple[Message, ...], response: Part) -> str:
        """A text holding "Final Score: N" with a whole number N from 1 to 10."""


def refuse_scoreless(judge: object, builder: str) -> None:
    """Raise UserError for a judge that does not score single answers."""
    if not isinstance(judge, PointJudge):
        raise UserError(
            f"judge: {type(judge).__name__} has no method score, which builder {builder} asks for"
        )


class ScoredOnce:
    """A judge of single answers that has scored some already; of those it gives the same scores again."""

    def __init__(self, judge: Judge, prompt: tuple[Message, ...], answers: Sequence[Part], name: str) -> None:
        """Score all answers to one prompt in one call; `name` is what messages call the prompt."""
        scores = score_all(judge, [prompt] * len(answers), answers, [name] * len(answers))
        # the answers are kept beside their scores: ids of objects that are gone come again
        self._known = {id(one): (one, found) for one, found in zip(answers, scores, strict=True)}

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """The scores of one of the answers."""
        return self._known[id(response)][1]


@dataclass(frozen=True)
class ByScores:
    """Compares two answers by the scores of a judge of single ones; scores less than or just `even` apart
    tie."""

    judge: Judge
    even: float = 0.0

    def compare(self, prompt: tuple[Message, ...], first: Part, second: Part) -> Verdict | None:
        """The answer whose "score" is higher."""
        ours, theirs = (own[TOTAL] for own in score_all(self.judge, [prompt, prompt], [first, second]))
        if abs(ours - theirs) <= self.even:
            return "tie"
        return "first" if ours > theirs else "second"


@dataclass(frozen=True)
class Spoken:
    """Compares two answers by what a judge says of them."""

    judge: SpeakingJudge

    def compare(self, prompt: tuple[Message, ...], first: Part, second: Part) -> Verdict | None:
        """The verdict in its words, None where they hold none."""
        return read_verdict(self.judge.rank(prompt, first, second))
