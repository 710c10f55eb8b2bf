"""Verdicts of a judge that a metric names: many at once where it can, None for one that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.rewards._scoring import TOTAL, ready, score_all
from mmalign.types import Judge, Message, Part, UserError, VerdictJudge


def judge_of(section: Mapping[str, Any]) -> Judge:
    """The judge of a metric's section. Whether code outside the package may be named was decided before."""
    built: Judge = build_named(KINDS["judge"], section, "judge", allow_code=True)
    return built


def load(judge: Judge) -> None:
    """Load the judge, so that one that cannot be had is refused before anything is generated."""
    ready(judge)


def verdicts(
    judge: Judge,
    names: Sequence[str],
    prompts: Sequence[tuple[Message, ...]],
    answers: Sequence[str],
    bounds: tuple[float, float],
) -> list[dict[str, float] | None]:
    """Named scores of every answer, in order; None where the judge wrote what cannot be read.

    Raises UserError naming the question for a score out of bounds: the judge asks for another scale.
    """
    responses = [Part("text", text) for text in answers]
    found: list[dict[str, float] | None]
    if isinstance(judge, VerdictJudge):
        found = [None if one is None else dict(one) for one in judge.verdicts(prompts, responses)]
    else:
        found = [*score_all(judge, prompts, responses, names)]
    low, high = bounds
    for name, one in zip(names, found, strict=True):
        if one is not None and not low <= one[TOTAL] <= high:
            raise UserError(
                f"question {name}: the judge's score is {one[TOTAL]:g}; this metric needs {low:g} to "
                f"{high:g}, so ask the judge for that scale"
            )
    return found
