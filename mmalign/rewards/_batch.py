"""Judges that score many responses at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from mmalign.types import Message, Part


class BatchJudge(ABC):
    """A judge with a model behind it: loaded once, fed in batches; one response alone works too."""

    @abstractmethod
    def ready(self) -> None:
        """Load what scoring needs, before anything is generated. Raises UserError if that cannot be had."""

    @abstractmethod
    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        """Named scores of every response, "score" among them, in order and whatever the batch."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """Named scores of one response."""
        return self.score_many([prompt], [response])[0]
