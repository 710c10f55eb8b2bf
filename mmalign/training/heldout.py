"""Held-out evaluation: the objective on rows that never train, always with the same draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmalign.training.metrics import Means, sample_metrics
from mmalign.training.optim import evaluating
from mmalign.training.step import Engine, Micro, apply_objective, collate_labels, join_scores, score_all
from mmalign.types import State

PURPOSE = "heldout"  # the draws' own seed stream


def evaluate(engine: Engine, micros: Sequence[Micro], state: State) -> dict[str, float]:
    """Means of all metrics over every held-out row.

    Processes share the micro-batches. Where an objective couples samples it sees all rows at once, on every
    process alike, so that its value depends neither on the split nor on the number of processes.
    """
    means = Means()
    world = engine.world
    with torch.no_grad(), evaluating(engine.adapter.policy):
        if engine.objective.batch_coupled:
            parts = [score_all(engine, micro, PURPOSE) for micro in micros]
            scores = join_scores(parts, micros)
            labels = collate_labels([item for micro in micros for item in micro.items], world.device)
            outcome = apply_objective(engine, scores, labels, state, _mean_here)
            if world.is_main:
                means.add(sample_metrics(scores, outcome))
        else:
            for micro in micros[world.rank :: world.size]:
                scores = score_all(engine, micro, PURPOSE)
                outcome = apply_objective(engine, scores, micro.labels, state, _mean_here)
                means.add(sample_metrics(scores, outcome))
    return {f"heldout/{name}": value for name, value in means.read(world).items()}


def _mean_here(values: Tensor, where: Tensor | None = None) -> Tensor:
    kept = values.detach() if where is None else values.detach()[where]
    return kept.sum() / max(1, len(kept))
