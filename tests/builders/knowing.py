"""A labeller of a user's own, builders.knowing:Knowing, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmalign.types import Message
from mmalign.writing import Writer

TRUE = ("a red circle", "a blue cross", "a green star")
ASKED: list[tuple[Message, ...]] = []
"""What the labeller was asked since it was made ready."""


@dataclass(frozen=True)
class Knowing(Writer):
    """A labeller of a user's own that knows what is there; it is `sure` of what is."""

    sure: float = 0.4

    def ready(self) -> None:
        """Nothing to load; what was asked before is forgotten."""
        ASKED.clear()

    def write(self, questions: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[str | None]:
        """Nobody asks."""
        raise AssertionError

    def chances(
        self, questions: Sequence[tuple[Message, ...]], words: Sequence[str]
    ) -> list[tuple[float, ...]]:
        """Yes in small letters, no in capitals: each word's chance alone says nothing."""
        assert list(words) == ["yes", "Yes", "no", "No"]
        ASKED.extend(questions)
        said = [any(f"Is there {one}?" in turns[0].parts[-1].data for one in TRUE) for turns in questions]
        return [(0.3, self.sure - 0.3, 0.0, 0.35) if yes else (0.2, 0.2, 0.3, 0.2) for yes in said]
