"""Verdicts of a judge that a metric names: many at once where it can, None for one that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.metrics._reading import check_paths
from mmalign.metrics._seam import Metric
from mmalign.rewards._scoring import TOTAL, ready, score_readable
from mmalign.types import Judge, Message, Part, UserError


@dataclass(frozen=True)
class JudgedMetric(Metric):
    """What metrics share whose answers a judge grades: files, the judge's section, and the judge itself."""

    unchecked: ClassVar[bool] = True
    tells: ClassVar[frozenset[str]] = frozenset()
    """What the judge is told besides the prompt, which holds all else that it needs."""

    questions: str
    images: str
    judge: dict[str, Any] = field(metadata={"section": "judge"})

    def __post_init__(self) -> None:
        check_paths(questions=self.questions, images=self.images)

    @cached_property
    def asked_judge(self) -> Judge:
        """The judge. Whether code outside the package may be named was decided when the config was read."""
        built: Judge = build_named(KINDS["judge"], self.judge, "judge", allow_code=True)
        return built

    def ready(self) -> None:
        """Load the judge, so that one that cannot be had is refused before anything is generated."""
        ready(self.asked_judge, self.tells)


def verdicts(
    judge: Judge,
    names: Sequence[str],
    prompts: Sequence[tuple[Message, ...]],
    answers: Sequence[str],
    bounds: tuple[float, float],
    told: Sequence[Mapping[str, str]] | None = None,
) -> list[dict[str, float] | None]:
    """Named scores of every answer, in order; None where the judge wrote what cannot be read. `told`: what is
    known of every question, for judges that want it.

    Raises UserError naming the question for a score out of bounds: the judge asks for another scale.
    """
    responses = [Part("text", text) for text in answers]
    found = score_readable(judge, prompts, responses, names, told)
    low, high = bounds
    for name, one in zip(names, found, strict=True):
        if one is not None and not low <= one[TOTAL] <= high:
            raise UserError(
                f"question {name}: the judge's score is {one[TOTAL]:g}; this metric needs {low:g} to "
                f"{high:g}, so ask the judge for that scale"
            )
    return found
