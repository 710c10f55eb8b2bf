"""Groups of answers, and judges of them, for the tests of builders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmalign.builders._candidates import Group
from mmalign.types import Message, Part


def group(*answers: str, name: str = "p") -> Group:
    """A prompt with these answers; their seeds count from 100."""
    turns = (Message("user", (Part("text", f"say {name}"),)),)
    parts = tuple(Part("text", answer) for answer in answers)
    return Group(name, turns, parts, tuple(range(100, 100 + len(parts))))


@dataclass(frozen=True)
class Numbers:
    """Reads an answer "3" or "3 0.5" as its scores: the total and, if there is one, "second"."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """The numbers of the answer."""
        return dict(zip(("score", "second"), map(float, response.data.split()), strict=False))


@dataclass(frozen=True)
class Batched(Numbers):
    """The same in one call; counts how many answers came in each."""

    calls: list[int] = field(default_factory=list)

    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        """Scores in order."""
        self.calls.append(len(responses))
        return [self.score(prompt, one) for prompt, one in zip(prompts, responses, strict=True)]


@dataclass(frozen=True)
class Biased(Numbers):
    """Compares by the number, except that answers below `from_here` lose to whatever is shown first."""

    from_here: float = 0.0

    def compare(self, prompt: tuple[Message, ...], first: Part, second: Part) -> str | None:
        """The larger number wins; the first place wins among small ones; "?" cannot be read."""
        if "?" in (first.data, second.data):
            return None
        ours, theirs = float(first.data), float(second.data)
        if max(ours, theirs) < self.from_here:
            return "first"
        if ours == theirs:
            return "tie"
        return "first" if ours > theirs else "second"


@dataclass(frozen=True)
class Talking:
    """Answers in words, as a generative judge does; what it is asked to rate or rank is text like "9"."""

    def rank(self, prompt: tuple[Message, ...], first: Part, second: Part) -> str:
        """A sentence; answers of a single letter get no verdict."""
        if not (first.data.isdigit() and second.data.isdigit()):
            return "I cannot tell these apart."
        ours, theirs = int(first.data), int(second.data)
        if ours == theirs:
            return "Both are equally good."
        return f"Looking closely, response {1 if ours > theirs else 2} is better."

    def rate(self, prompt: tuple[Message, ...], response: Part) -> str:
        """A sentence with the number; 7 comes without one."""
        return "Final Score: none" if response.data == "7" else f"It is fine. Final Score: {response.data}"
