"""The judges of a run, held against what its model answers with."""

from __future__ import annotations

from mmalign.config import RunConfig
from mmalign.rewards._reads import refuse_unread
from mmalign.types import UserError


def check_judges(config: RunConfig, made: frozenset[str]) -> None:
    """Raise UserError for a judge, of the evaluation or of rounds, that reads none of the kinds of answers
    `made`, and for benchmarks where it makes no texts; nothing is made where that is empty."""
    if config.evaluation.metrics and "text" not in made:
        raise UserError(
            "evaluation.metrics: benchmarks grade answers in words, which this model does not give; remove"
            " them"
        )
    judges = config.evaluation.judges
    for place, judge in enumerate(judges):
        refuse_unread(judge, made, f"evaluation.judge[{place}]" if len(judges) > 1 else "evaluation.judge")
    if config.online is not None:
        refuse_unread(config.online.judge, made, "online.judge")
