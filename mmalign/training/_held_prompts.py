"""What becomes of held-out rows where the objective learns from samples: whole pairs are scored as in any run
if rounds mix pairs of the data in, and of the others the prompts are kept, to be answered."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.config import RunConfig
from mmalign.data._first_pass import beside_prompts, only_prompts
from mmalign.types import PreferenceSample, UserError

PICTURES = 4
"""So many prompts are answered over training where a model makes pictures and nothing else is said."""


def answered(config: RunConfig) -> int:
    """Prompts that are answered over training."""
    usual = PICTURES if config.model.kind == "surrogate" else 0
    return usual if config.evaluation.grid is None else config.evaluation.grid


def may_score(config: RunConfig) -> bool:
    """True unless no held-out row can be scored: rounds alone have no answers to score, and an answer that is
    written blind belongs to the round it was written in."""
    section = config.online
    return section is None or (section.offline is not None and section.blind is None)


def check_eval_every(config: RunConfig) -> None:
    """Raise UserError for `train.eval_every` of rounds that measure nothing then."""
    if config.train.eval_every is not None and not may_score(config) and not answered(config):
        raise _unread("rounds score no held-out rows (they do with online.offline and without online.blind)")


def held_out(
    samples: Sequence[PreferenceSample], config: RunConfig, roles: Sequence[str], notes: list[str]
) -> list[PreferenceSample]:
    """Held-out rows of one source: pairs with their prompts if all have what is scored, `roles`; else one
    sample per distinct prompt. `notes` says which. Raises UserError for `train.eval_every` that then does
    nothing."""
    told: list[str] = []
    if config.online is None:
        kept = only_prompts(samples, told)
        notes += [f"held-out {line}" for line in told]
        return kept
    if may_score(config) and samples and all(set(roles) <= set(one.examples) for one in samples):
        notes.append(f"held-out data: {len(samples)} pairs, scored as in any run")
        return beside_prompts(samples, told, all_train=True)
    kept = only_prompts(samples, told)
    if may_score(config) and config.train.eval_every is not None and not answered(config):
        raise _unread(f"not all held-out rows have {' and '.join(roles)}, and are not scored")
    notes.append(
        f"held-out data: {len(kept)} different prompts of {len(samples)} rows, of which rounds score none; "
        "mmalign evaluate answers and judges them"
    )
    return kept


def _unread(reason: str) -> UserError:
    return UserError(
        f"train.eval_every: {reason}; remove it, or set evaluation.grid, so that prompts are answered then"
    )
