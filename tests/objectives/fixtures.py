"""Worked fixtures of the objectives: F, two text pairs, and F1, two pairs of denoising errors.

Padding holds values that would change every result if the mask were forgotten.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmalign.training.world import World
from mmalign.types import Kind, LogProbs, Objective, Outcome, Scores, Unit

ALL_MEAN = World(0, 1, torch.device("cpu")).mean
PADDING = 7.5
LN2 = 0.6931471805599453
SAMPLES = 6  # of a contract test

# per-token log-probabilities of two pairs; log-ratios 0.5 and -0.4 (chosen), -0.3 and 0.3 (rejected)
TOKENS = {
    "policy": {
        "chosen": [[-0.5, -1.0, -0.7, -0.8], [-1.0, -1.5, -0.5]],
        "rejected": [[-1.2, -0.9], [-0.4, -0.6, -0.9]],
    },
    "reference": {
        "chosen": [[-0.6, -1.1, -0.9, -0.9], [-0.8, -1.2, -0.6]],
        "rejected": [[-1.0, -0.8], [-0.9, -0.7, -0.6]],
    },
}
ERRORS = {
    "policy": {"chosen": [0.100, 0.200], "rejected": [0.120, 0.170]},
    "reference": {"chosen": [0.110, 0.195], "rejected": [0.115, 0.168]},
}


def tokens(rows: Sequence[Sequence[float]], extra: int = 0, dtype: torch.dtype = torch.float64) -> LogProbs:
    """Exact scores of rows of per-token log-probabilities, padded `extra` columns wider than needed."""
    width = max(len(row) for row in rows) + extra
    values = torch.full((len(rows), width), PADDING, dtype=dtype)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        values[i, : len(row)] = torch.tensor(row, dtype=dtype)
        mask[i, : len(row)] = True
    return exact(values, mask)


def exact(values: Tensor, mask: Tensor | None = None) -> LogProbs:
    """Exact scores from values [S, K]."""
    kept = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    return LogProbs(values, kept, "exact", "token", torch.arange(len(values)), _zeros(values))


def with_ids(scored: LogProbs, rows: Sequence[Sequence[int]]) -> LogProbs:
    """The same scores with the ids of their tokens, one list per row."""
    ids = torch.full(scored.mask.shape, -1)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return replace(scored, ids=ids)


def surrogate(errors: Tensor, weight: Tensor | None = None, signal: Tensor | None = None) -> LogProbs:
    """Surrogate scores -w e / 2 from errors [S] (one noise draw) or [S, K]."""
    e = errors if errors.dim() == 2 else errors[:, None]
    w = torch.ones_like(e) if weight is None else weight.reshape(-1, 1).expand_as(e)
    mask = torch.ones_like(e, dtype=torch.bool)
    return LogProbs(
        -w * e / 2,
        mask,
        "surrogate",
        "draw",
        torch.arange(len(e)),
        _zeros(e),
        error=e,
        timestep=e.detach() * 0,
        signal=torch.ones_like(e.detach()) if signal is None else signal.reshape(len(e), -1),
    )


def predicted(prediction: Tensor, target: Tensor, weight: float = 1.0) -> LogProbs:
    """Surrogate scores of predictions and targets [S, K, ...], which they carry."""
    error = (prediction - target).square().flatten(2).mean(-1)
    scored = surrogate(error, torch.full((len(error),), weight, dtype=error.dtype))
    return replace(scored, prediction=prediction, target=target)


def fixture_f2() -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """Fixture F2, one pair of two latent elements, and the policy's predictions per role as leaves."""
    target = torch.tensor([0.5, -1.0], dtype=torch.float64).reshape(1, 1, 2)
    numbers = {
        "policy": {"chosen": [0.7, -0.8], "rejected": [0.9, -0.9]},
        "reference": {"chosen": [0.8, -0.7], "rejected": [0.8, -0.8]},
    }
    made = {
        source: {role: torch.tensor(v, dtype=torch.float64).reshape(1, 1, 2) for role, v in roles.items()}
        for source, roles in numbers.items()
    }
    for leaf in made["policy"].values():
        leaf.requires_grad_()
    scores = {s: {role: predicted(p, target) for role, p in roles.items()} for s, roles in made.items()}
    return scores, made["policy"]


def units(values: Tensor, unit: Unit, mask: Tensor | None = None) -> LogProbs:
    """Scores of denoising steps, or of segments with errors of -2 times their values, [S, K]."""
    kept = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    kind: Kind = "trajectory" if unit == "step" else "surrogate"
    error = -2 * values if unit == "segment" else None
    return LogProbs(values, kept, kind, unit, torch.arange(len(values)), _zeros(values), error=error)


def steps_with(
    **ratios: Sequence[Sequence[float]],
) -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """Sampling paths with these log-ratios per step and role, and the policy's log-densities as leaves."""
    leaves = {role: torch.tensor(r, dtype=torch.float64).requires_grad_() for role, r in ratios.items()}
    scores = {
        "policy": {role: units(leaf, "step") for role, leaf in leaves.items()},
        "reference": {role: units(torch.zeros_like(leaf), "step") for role, leaf in leaves.items()},
    }
    return scores, leaves


def at_levels(scores: Scores, shares: Sequence[float]) -> dict[str, dict[str, LogProbs]]:
    """The same paths, their steps beginning at these shares of the noise schedule."""

    def placed(side: LogProbs) -> LogProbs:
        return replace(side, timestep=torch.tensor(shares).expand(len(side.values), -1))

    return changed_scores(scores, placed)


def reward(scores: Tensor) -> LogProbs:
    """Scores [S] of a reward model, as it gives them: one aspect."""
    values = scores[:, None]
    mask = torch.ones_like(values, dtype=torch.bool)
    return LogProbs(values, mask, "reward", "aspect", torch.arange(len(values)), _zeros(values))


def _zeros(values: Tensor) -> Tensor:
    return torch.zeros(len(values), dtype=torch.long)


def fixture_f(extra: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, dict[str, LogProbs]]:
    """Fixture F; the policy's values are leaves that take gradients."""
    scores = {
        source: {role: tokens(rows, extra, dtype) for role, rows in roles.items()}
        for source, roles in TOKENS.items()
    }
    for side in scores["policy"].values():
        side.values.requires_grad_()
    return scores


def fixture_f1(signal: Tensor | None = None) -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """Fixture F1 and the policy's errors per role, leaves that take gradients."""
    leaves = {role: torch.tensor(e, dtype=torch.float64) for role, e in ERRORS["policy"].items()}
    for leaf in leaves.values():
        leaf.requires_grad_()
    reference = {role: torch.tensor(e, dtype=torch.float64) for role, e in ERRORS["reference"].items()}
    scores = {
        "policy": {role: surrogate(leaf, signal=signal) for role, leaf in leaves.items()},
        "reference": {role: surrogate(e, signal=signal) for role, e in reference.items()},
    }
    return scores, leaves


def from_ratios(**ratios: Tensor) -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """One-token scores with these log-ratios [S] per role, and the policy's values [S, 1] as leaves."""
    leaves = {role: h.detach().clone()[:, None].requires_grad_() for role, h in ratios.items()}
    scores = {
        "policy": {role: exact(leaf) for role, leaf in leaves.items()},
        "reference": {role: exact(torch.zeros_like(leaf)) for role, leaf in leaves.items()},
    }
    return scores, leaves


def agreeing(scores: Scores) -> dict[str, dict[str, LogProbs]]:
    """The same scores with the policy's in place of the reference's."""
    return {"policy": dict(scores["policy"]), "reference": dict(scores["policy"])}


def pick(labels: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """The labels of a selection of samples."""
    return {k: v[rows] if isinstance(v, Tensor) else [v[i] for i in rows.tolist()] for k, v in labels.items()}


def lengths(role: int) -> Tensor:
    """A mask of responses of different lengths."""
    counts = 1 + (torch.arange(SAMPLES) + role) % 5
    return torch.arange(5)[None] < counts[:, None]


def changed_scores(scores: Scores, change: Callable[[LogProbs], LogProbs]) -> dict[str, dict[str, LogProbs]]:
    """Every side of every source changed."""
    return {s: {r: change(side) for r, side in roles.items()} for s, roles in scores.items()}


def run(objective: Objective, scores: Scores, labels: Mapping[str, Any] | None = None) -> Outcome:
    """One step's outcome in a single process."""
    return objective(scores, labels or {}, objective.initial_state(), ALL_MEAN)


def total_gradients(objective: Objective, role: str) -> list[float]:
    """dL/dS of one role per pair of fixture F. All tokens of a response share it; padding must have none."""
    scores = fixture_f(extra=2)
    run(objective, scores).loss.sum().backward()
    side = scores["policy"][role]
    gradient = side.values.grad
    assert gradient is not None
    assert not gradient[~side.mask].any()
    spread = torch.where(side.mask, gradient - gradient[:, :1], torch.zeros_like(gradient))
    assert spread.abs().max() < 1e-12
    return gradient[:, 0].tolist()


def near(values: Tensor, expected: Sequence[float], tolerance: float = 2e-6) -> bool:
    """True if every value is within an absolute tolerance."""
    wanted = torch.tensor(expected, dtype=torch.float64)
    return bool((values.detach().double() - wanted).abs().max() <= tolerance)
