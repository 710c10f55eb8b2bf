"""The judges of a run, held against what its model answers with."""

from __future__ import annotations

from mmalign.config import RunConfig
from mmalign.rewards._reads import refuse_unread


def check_judges(config: RunConfig, made: frozenset[str]) -> None:
    """Raise UserError for a judge, of the evaluation or of rounds, that reads none of the kinds of answers
    `made`; nothing is made where that is empty."""
    judges = config.evaluation.judges
    for place, judge in enumerate(judges):
        refuse_unread(judge, made, f"evaluation.judge[{place}]" if len(judges) > 1 else "evaluation.judge")
    if config.online is not None:
        refuse_unread(config.online.judge, made, "online.judge")
