"""Scores of a judge that a build asks, of which some may not be readable."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.rewards._scoring import score_readable
from mmalign.types import Judge, Message, Part


def scored_or_none(
    judge: Judge, prompts: Sequence[tuple[Message, ...]], answers: Sequence[Part], names: Sequence[str]
) -> list[dict[str, float] | None]:
    """Named scores of every answer, in order; None where the judge wrote a verdict that cannot be read.
    `names` are what messages call the prompts. Raises UserError as `score_all` does."""
    return score_readable(judge, prompts, answers, names)
