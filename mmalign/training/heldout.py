"""Held-out evaluation: the objective on rows that never train, always with the same draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmalign.adapters._users import by_user
from mmalign.training._joining import join_scores
from mmalign.training.metrics import Means, sample_metrics
from mmalign.training.optim import evaluating
from mmalign.training.rows import WITHOUT_IMAGE
from mmalign.training.step import (
    Engine,
    Micro,
    apply_objective,
    collate_labels,
    labels_of,
    score,
    score_all,
)
from mmalign.types import LogProbs, State

PURPOSE = "heldout"  # the draws' own seed stream


def evaluate(engine: Engine, micros: Sequence[Micro], state: State) -> dict[str, float]:
    """Means of all metrics over every held-out row.

    Processes share the micro-batches. Where an objective couples samples it sees all rows at once, on every
    process alike, so that its value depends neither on the split nor on the number of processes.
    """
    means = Means()
    world = engine.world
    with torch.no_grad(), evaluating(engine.adapter.policy):
        if engine.batch_coupled:
            parts = [score_all(engine, micro, PURPOSE) for micro in micros]
            scores = join_scores(parts, [len(micro.items) for micro in micros])
            labels = collate_labels([item for micro in micros for item in micro.items], world.device)
            outcome = apply_objective(engine, scores, labels, state, _mean_here)
            if world.is_main:
                found = sample_metrics(scores, outcome)
                means.add(found)
                means.add(by_user(engine.adapter.policy, labels.get("user"), found))
            shares = list(zip(micros, parts, strict=True))[world.rank :: world.size]
            for micro, part in shares:
                means.add(imageless_margin(engine, micro, part["policy"]))
        else:
            for micro in micros[world.rank :: world.size]:
                scores = score_all(engine, micro, PURPOSE)
                given = labels_of(engine, micro, PURPOSE)
                outcome = apply_objective(engine, scores, given, state, _mean_here)
                found = sample_metrics(scores, outcome)
                means.add(found)
                means.add(by_user(engine.adapter.policy, micro.labels.get("user"), found))
                means.add(imageless_margin(engine, micro, scores["policy"]))
    return {f"heldout/{name}": value for name, value in means.read(world).items()}


def imageless_margin(engine: Engine, micro: Micro, policy: Mapping[str, LogProbs]) -> dict[str, Tensor]:
    """How far the policy prefers the chosen response with the prompt's pictures and clips, and without them.

    The margin is log p(chosen) - log p(rejected) of the policy alone, [n] over the rows with media that can
    be read without; `image_share` is the difference, the part of it that seeing brings. A margin that stays
    when the picture goes was won by language. Empty if the micro-batch has no such row.
    """
    places = [
        place
        for place, sample in enumerate(micro.encoded)
        if any(row.role in WITHOUT_IMAGE.values() for row in sample.rows)
    ]
    if not places:
        return {}
    seeing = replace(
        micro, items=[micro.items[i] for i in places], encoded=[micro.encoded[i] for i in places]
    )
    without = score(engine, seeing, "policy", tuple(WITHOUT_IMAGE.values()), PURPOSE)
    kept = torch.tensor(places, device=engine.world.device)
    full = {role: policy[role].total()[kept] for role in WITHOUT_IMAGE}
    blind = {role: without[probe].total() for role, probe in WITHOUT_IMAGE.items()}
    with_image, without_image = (side["chosen"] - side["rejected"] for side in (full, blind))
    return {
        "margin_with_image": with_image,
        "margin_without_image": without_image,
        "image_share": with_image - without_image,
        "ranking_with_image": (with_image > 0).to(with_image.dtype),
        "ranking_without_image": (without_image > 0).to(with_image.dtype),
    }


def _mean_here(values: Tensor, where: Tensor | None = None) -> Tensor:
    kept = values.detach() if where is None else values.detach()[where]
    return kept.sum() / max(1, len(kept))
