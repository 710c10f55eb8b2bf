"""Scoring by any judge: many responses at once where it can, else one by one; its scores are checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mmalign._names import KINDS, name_of
from mmalign.rewards._batch import BatchJudge
from mmalign.types import (
    InformedJudge,
    Judge,
    ManyJudge,
    Message,
    Part,
    StepJudge,
    UserError,
    VerdictJudge,
)

TOTAL = "score"
"""The name of the score that responses are compared by; every judge gives it."""


def ready(judge: Judge, told: frozenset[str] = frozenset()) -> None:
    """Load what the judge scores with, so that one that cannot be had is refused before any work is done.

    Raises UserError if it cannot be had, and if it wants to be told more than what is `told` here.
    """
    refuse_untold(judge, told, "judge")
    if isinstance(judge, BatchJudge):
        judge.ready()


def refuse_untold(judge: object, told: frozenset[str], where: str) -> None:
    """Raise UserError for a judge that wants to be told more than what is `told`; `where`: its section."""
    if missing := sorted(wants_of(judge) - told):
        raise UserError(
            f"{where}: {name_of(KINDS['judge'], type(judge))} wants the {missing[0]} of every prompt, which "
            "it is not told here"
        )


def wants_of(judge: object) -> frozenset[str]:
    """What a judge must be told besides prompt and response."""
    return judge.wants if isinstance(judge, InformedJudge) else frozenset()


def score_readable(
    judge: Judge,
    prompts: Sequence[tuple[Message, ...]],
    responses: Sequence[Part],
    names: Sequence[str] | None = None,
    told: Sequence[Mapping[str, str]] | None = None,
    timesteps: Sequence[int] | None = None,
) -> list[dict[str, float] | None]:
    """What `score_all` gives, but None where a judge that writes its verdicts wrote one that cannot be read.
    `told`: what is known of every prompt, for judges that want it."""
    if not prompts and not responses:
        return []  # a judge that wants to be told something would refuse even these
    given: Sequence[Mapping[str, float] | None]
    if timesteps is not None and isinstance(judge, StepJudge):
        given = judge.score_steps(prompts, responses, timesteps)
    elif not isinstance(judge, VerdictJudge):
        return [*score_all(judge, prompts, responses, names)]
    elif told is not None and isinstance(judge, InformedJudge):
        given = judge.verdicts_given(prompts, responses, told)
    else:
        given = judge.verdicts(prompts, responses)
    if len(given) != len(responses):
        raise UserError(f"the judge gives {len(given)} verdicts for {len(responses)} responses")
    called = [str(i + 1) for i in range(len(prompts))] if names is None else [repr(name) for name in names]
    return [
        None if scores is None else _checked(scores, name) for scores, name in zip(given, called, strict=True)
    ]


def score_all(
    judge: Judge,
    prompts: Sequence[tuple[Message, ...]],
    responses: Sequence[Part],
    names: Sequence[str] | None = None,
    timesteps: Sequence[int] | None = None,
) -> list[dict[str, float]]:
    """Named finite scores of every response to its prompt, "score" among them, in order.

    `names` are what messages call the prompts; without them they are counted from 1. `timesteps` are the
    noise levels that unfinished responses were predicted from, for judges that take them. Raises ValueError
    for lists of different length, UserError for what the judge refuses, for a missing "score" and for a score
    that is no finite number.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"one response per prompt: got {len(responses)} for {len(prompts)}")
    called = [str(i + 1) for i in range(len(prompts))] if names is None else [repr(name) for name in names]
    if len(called) != len(prompts):
        raise ValueError(f"one name per prompt: got {len(called)} for {len(prompts)}")
    if timesteps is not None and len(timesteps) != len(responses):
        raise ValueError(f"one timestep per response: got {len(timesteps)} for {len(responses)}")
    given: Sequence[Mapping[str, float] | None]
    if timesteps is not None and isinstance(judge, StepJudge):
        given = judge.score_steps(prompts, responses, timesteps)
    elif isinstance(judge, ManyJudge):
        given = judge.score_many(prompts, responses)
    else:
        given = [_one(judge, *row) for row in zip(prompts, responses, called, strict=True)]
    if len(given) != len(responses):
        raise UserError(f"the judge gives {len(given)} scores for {len(responses)} responses")
    found = []
    for scores, name in zip(given, called, strict=True):
        if scores is None:
            raise UserError(f"prompt {name}: the judge's verdict cannot be read")
        found.append(_checked(scores, name))
    return found


def _one(judge: Judge, prompt: tuple[Message, ...], response: Part, name: str) -> Mapping[str, float]:
    try:
        return judge.score(prompt, response)
    except UserError as error:
        raise UserError(f"prompt {name}: {error}") from error


def _checked(given: Mapping[str, float], name: str) -> dict[str, float]:
    scores = {key: float(value) for key, value in given.items()}
    if TOTAL not in scores:
        raise UserError(f"prompt {name}: the judge gives no {TOTAL!r}, only {sorted(scores)}")
    for key, value in scores.items():
        if not math.isfinite(value):
            raise UserError(f"prompt {name}: the judge's {key!r} is {value}, not finite")
    return scores
