"""Who writes for builders and judges, as rewriters, questioners and graders: the contract of writers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

from mmalign.messages import Message


class Writer(ABC):
    """Answers questions in words. Subclasses are frozen dataclasses whose fields are the keys in the config,
    one file of mmalign/writers each."""

    indifferent: ClassVar[frozenset[str]] = frozenset()
    """Fields that change no answer, such as how many questions are asked at once."""

    @abstractmethod
    def ready(self) -> None:
        """Load what the writer needs. Raises UserError if it cannot be had."""

    def content(self) -> str:
        """What tells two states of the writer apart that its config does not, such as a digest of a model's
        files, for those who keep answers; empty where there is nothing of the kind."""
        return ""

    @abstractmethod
    def write(self, questions: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[str | None]:
        """The answer to every question, media decoded, in order and whatever the batch; None where the writer
        gives none. `seeds`: one per question; the same question and seed have the same answer wherever the
        writer can promise it. Raises UserError for questions that it cannot read."""


@runtime_checkable
class Weighing(Protocol):
    """A writer that tells how likely it is to begin its answer with given words."""

    def chances(
        self, questions: Sequence[tuple[Message, ...]], words: Sequence[str]
    ) -> list[tuple[float, ...]]:
        """For every question the probabilities that the answer's first token is the first token of each word.
        Raises UserError for words whose first tokens are the same, and as `write` does."""
