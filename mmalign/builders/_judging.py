"""Judges of two answers, and judges that answer in words.

A judge of a build scores single answers. One that also compares two, or one that writes its verdicts as text
as a generative model does, has the methods below besides; wherever it lacks them its scores decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mmalign.builders._candidates import Group
from mmalign.rewards._said import Verdict as Verdict
from mmalign.rewards._said import read_rating as read_rating
from mmalign.rewards._said import read_verdict as read_verdict
from mmalign.rewards._scoring import TOTAL, score_readable
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


@runtime_checkable
class ManyPairJudge(Protocol):
    """Compares many twos of answers in one call, if `compares` is true."""

    @property
    def compares(self) -> bool:
        """False where its config has nothing to compare by; its scores decide then."""

    def compare_many(
        self,
        prompts: Sequence[tuple[Message, ...]],
        twos: Sequence[tuple[Part, Part]],
        told: Sequence[Mapping[str, str]],
    ) -> list[Verdict | None]:
        """What `PairJudge.compare` says of each two, in order; `told`: what is known of every prompt."""


def compares(judge: object) -> bool:
    """True for a judge that compares two answers itself, by a verdict or in words."""
    return isinstance(judge, PairJudge | SpeakingJudge) or (
        isinstance(judge, ManyPairJudge) and judge.compares
    )


class ScoredOnce:
    """A judge of single answers that has scored some already; of those it gives the same scores again."""

    def __init__(self, judge: Judge, group: Group) -> None:
        """Score all answers of a group in one call."""
        prompts, names = [group.prompt] * len(group.answers), [group.id] * len(group.answers)
        told = [group.told] * len(group.answers)
        scores = score_readable(judge, prompts, group.answers, names, told)
        # the answers are kept beside their scores: ids of objects that are gone come again
        self._known = {id(one): (one, found) for one, found in zip(group.answers, scores, strict=True)}

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """The scores of one of the answers. Raises UserError where none could be read."""
        (found,) = self.verdicts([prompt], [response])
        if found is None:
            raise UserError("the verdict on this answer cannot be read")
        return found

    def verdicts(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float] | None]:
        """The scores of some of the answers, None where none could be read."""
        return [self._known[id(response)][1] for response in responses]


@dataclass(frozen=True)
class ByScores:
    """Compares two answers by the scores of a judge of single ones; scores less than or just `even` apart
    tie."""

    judge: Judge
    even: float = 0.0

    def compare(self, prompt: tuple[Message, ...], first: Part, second: Part) -> Verdict | None:
        """The answer whose "score" is higher; None where one has none that could be read."""
        ours, theirs = score_readable(self.judge, [prompt, prompt], [first, second])
        if ours is None or theirs is None:
            return None
        if abs(ours[TOTAL] - theirs[TOTAL]) <= self.even:
            return "tie"
        return "first" if ours[TOTAL] > theirs[TOTAL] else "second"


@dataclass(frozen=True)
class Spoken:
    """Compares two answers by what a judge says of them."""

    judge: SpeakingJudge

    def compare(self, prompt: tuple[Message, ...], first: Part, second: Part) -> Verdict | None:
        """The verdict in its words, None where they hold none."""
        return read_verdict(self.judge.rank(prompt, first, second))
