"""Hinge loss on the margin: a pair that is told apart by enough is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, pair_metrics, ratios, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class Hinge(Objective):
    """Hinge on log-ratios (arXiv 2309.06657): loss = max(0, 1 - beta * margin).

    It is SLiC's loss normalised by a reference. SLiC-HF itself (arXiv 2305.10425) compares absolute
    log-likelihoods and has no reference. Beyond beta * margin = 1 the gradient is exactly zero. `beta` has
    the size it has in DPO: 0.1 for text, 2000 to 5000 on surrogate scores.
    """

    beta: float = 0.1  # strength of the pull to the reference: 0.1 for text, 2000 to 5000 for diffusion

    roles = PAIR_WITH_REFERENCE
    surrogate_beta = 2000.0

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; 1 where policy and reference agree. `inactive` marks pairs without a gradient."""
        h = ratios(scores)
        loss = (1 - self.beta * h.margin).clamp(min=0)
        inactive = (self.beta * h.margin.detach() >= 1).to(loss.dtype)
        return Outcome(loss, {**pair_metrics(h, self.beta), "inactive": inactive}, state)
