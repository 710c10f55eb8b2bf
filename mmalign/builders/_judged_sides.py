"""Pairs whose sides were written on purpose, and by how much a judge finds the chosen one the better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmalign.rewards import _scoring
from mmalign.types import Judge, Message, Part

UNREAD = "pairs on which the judge's verdict could not be read"
NO_BETTER = "pairs whose chosen side the judge finds no better"


@dataclass(frozen=True)
class Sides:
    """Two answers to one prompt; `name` is what messages call it."""

    name: str
    turns: tuple[Message, ...]
    chosen: str
    rejected: str


def judged_sides(judge: Judge, pairs: Sequence[Sides], min_gap: float) -> list[dict[str, float] | str]:
    """The columns of a row that hold the scores of its sides; or why there is no row: the chosen side scores
    `min_gap` or less above the other one, or a verdict could not be read."""
    turns = [one.turns for one in pairs for _ in range(2)]
    answers = [Part("text", text) for one in pairs for text in (one.chosen, one.rejected)]
    names = [one.name for one in pairs for _ in range(2)]
    scores = iter(_scoring.score_readable(judge, turns, answers, names))
    found: list[dict[str, float] | str] = []
    for chosen, rejected in zip(scores, scores, strict=True):
        if chosen is None or rejected is None:
            found.append(UNREAD)
            continue
        gap = chosen[_scoring.TOTAL] - rejected[_scoring.TOTAL]
        scored = {"chosen_score": chosen[_scoring.TOTAL], "rejected_score": rejected[_scoring.TOTAL]}
        found.append({**scored, "margin": gap} if gap > min_gap else NO_BETTER)
    return found
