"""The judges of a run, held against what its model answers with."""

from __future__ import annotations

from mmalign.config import RunConfig
from mmalign.rewards._reads import refuse_unread
from mmalign.rewards._scoring import refuse_untold
from mmalign.types import UserError


def check_judges(config: RunConfig, made: frozenset[str]) -> None:
    """Raise UserError for a judge, of the evaluation or of rounds, that reads none of the kinds of answers
    `made` or wants to be told more than prompts and answers, and for benchmarks where it makes no texts;
    nothing is made where that is empty."""
    if config.evaluation.metrics and "text" not in made:
        raise UserError(
            "evaluation.metrics: benchmarks grade answers in words, which this model does not give; remove"
            " them"
        )
    judges = config.evaluation.judges
    for place, judge in enumerate(judges):
        where = f"evaluation.judge[{place}]" if len(judges) > 1 else "evaluation.judge"
        refuse_untold(judge, frozenset(), where)
        refuse_unread(judge, made, where)
    if config.online is not None and config.online.judge is not None:
        refuse_untold(config.online.judge, frozenset(), "online.judge")
        refuse_unread(config.online.judge, made, "online.judge")
