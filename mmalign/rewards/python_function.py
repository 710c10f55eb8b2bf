"""A function of your own as a judge, named by package.module:function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from mmalign._names import call_own, check_function, function_of, refuse_misshapen
from mmalign.rewards._batch import BatchJudge
from mmalign.rewards._pictures import caption_of
from mmalign.types import Message, Part, UserError


@dataclass(frozen=True)
class PythonFunction(BatchJudge):
    """Calls function(prompts, responses) -> list of scores: with texts, and texts, PIL pictures or clips.

    It returns one number per response, or one mapping of names to numbers that has "score". Prompts are the
    texts of their parts joined by spaces. Called with up to `batch` responses at a time.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"text", "image", "video"})

    function: str = field(metadata={"imports": True})  # package.module:function
    batch: int = 32  # responses that it is called with, at most

    def __post_init__(self) -> None:
        check_function(self.function)
        if self.batch < 1:
            raise ValueError(f"batch: must be above 0, got {self.batch}")

    def ready(self) -> None:
        """Import the function. Raises UserError if there is none, or one that takes something else."""
        form = "f(prompts, responses) -> one score per response"
        refuse_misshapen(self._call, self.function, "judge python_function", form, 2)

    @cached_property
    def _call(self) -> Callable[[list[str], list[Any]], Any]:
        return function_of(self.function, "python_function")

    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        """What the function says of every response. Raises UserError if that is not one score each."""
        found: list[Mapping[str, float]] = []
        for begin in range(0, len(responses), self.batch):
            part = slice(begin, begin + self.batch)
            texts = [caption_of(prompt) for prompt in prompts[part]]
            answers = [response.data for response in responses[part]]
            given = self._scores(texts, answers)
            if len(given) != len(texts):
                raise UserError(
                    f"python_function: {self.function}: gives {len(given)} scores for {len(texts)} responses"
                )
            found += [self._named(one, begin + place) for place, one in enumerate(given, 1)]
        return found

    def _scores(self, texts: list[str], answers: list[Any]) -> list[Any]:
        # a generator's own mistakes come while it is read
        def read(*given: Any) -> list[Any]:
            scores = self._call(*given)
            if not isinstance(scores, Iterable):
                raise UserError(f"python_function: {self.function}: must give a list, got {scores!r:.60}")
            return list(scores)

        found: list[Any] = call_own(read, self.function, "judge python_function", texts, answers)
        return found

    def _named(self, given: Any, place: int) -> Mapping[str, float]:
        named = given if isinstance(given, Mapping) else {"score": given}
        try:
            return {str(name): float(value) for name, value in named.items()}
        except (TypeError, ValueError) as error:
            raise UserError(
                f"python_function: {self.function}: response {place}: must be numbers, got {given!r:.60}"
            ) from error
