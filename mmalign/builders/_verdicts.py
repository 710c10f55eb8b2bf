"""Scores of a judge that a build asks, of which some may not be readable."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.rewards._scoring import score_all
from mmalign.types import Judge, Message, Part, VerdictJudge


def scored_or_none(
    judge: Judge, prompts: Sequence[tuple[Message, ...]], answers: Sequence[Part], names: Sequence[str]
) -> list[dict[str, float] | None]:
    """Named scores of every answer, in order; None where the judge wrote a verdict that cannot be read.
    `names` are what messages call the prompts. Raises UserError as `score_all` does."""
    if not prompts:
        return []
    if not isinstance(judge, VerdictJudge):
        return [*score_all(judge, prompts, answers, names)]
    return [None if one is None else dict(one) for one in judge.verdicts(prompts, answers)]
