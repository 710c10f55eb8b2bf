"""Robust DPO: an unbiased estimate of the DPO loss when a known share of the labels is flipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, pair_metrics, ratios, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class RobustDPO(Objective):
    """Robust DPO (rDPO, arXiv 2403.00409), for labels flipped at random with a known rate e.

    loss = (-(1 - e) log sigmoid(z) + e log sigmoid(-z)) / (1 - 2e), z = beta * margin. Its mean over the
    flips is the DPO loss of the true labels; `flip_rate` 0 is DPO. The loss is not bounded from below: a
    large margin keeps earning e / (1 - 2e) of itself. Where doubtful labels should rather stop the margin
    from growing, use the `label_smoothing` of dpo. Re-Align's loss on retrieved pictures (arXiv 2502.13146)
    is called rDPO too, but is another one and does not go by this name.
    """

    beta: float = 0.1  # strength of the pull to the reference, as in dpo
    flip_rate: float = 0.1  # known share of flipped labels, below one half

    roles = PAIR_WITH_REFERENCE
    surrogate_beta = 2000.0

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(0 <= self.flip_rate < 0.5, f"flip_rate: must lie in [0, 0.5), got {self.flip_rate}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree."""
        h, e = ratios(scores), self.flip_rate
        z = self.beta * h.margin
        loss = (e * F.logsigmoid(-z) - (1 - e) * F.logsigmoid(z)) / (1 - 2 * e)
        return Outcome(loss, pair_metrics(h, self.beta), state)
