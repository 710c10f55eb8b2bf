"""DMPO: the reverse divergence; margins stop at a chosen confidence, and hopeless pairs are let go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, pair_metrics, ratios, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class DMPO(Objective):
    """Divergence minimisation preference optimisation (arXiv 2507.07510), by its authors' training code.

    loss = p log(p / q) + (1 - p) log((1 - p) / (1 - q)), p = sigmoid(beta * margin), q = 1 - alpha: the
    divergence of the model's Bernoulli preference from the labels' softened one. DPO takes the other
    direction. The loss is 0 where beta * margin = log((1 - alpha) / alpha), 4.6 for the default, and pulls
    back beyond; where the margin is far below 0 its gradient vanishes, so a pair with a wrong label costs
    little. `beta` has the size it has in DPO: published runs use 2000 (SD1.5) and 6000 (SDXL).
    """

    beta: float = 0.1  # strength of the pull to the reference: 2000 (SD1.5) to 6000 (SDXL)
    alpha: float = 0.01  # assumed share of flipped labels; beta * margin aims at log((1 - alpha) / alpha)

    roles = PAIR_WITH_REFERENCE
    surrogate_beta = 2000.0

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(0 < self.alpha < 0.5, f"alpha: must lie in (0, 0.5), got {self.alpha}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; 1.614463 (alpha 0.01) where policy and reference agree, never above -log(alpha)."""
        h = ratios(scores)
        z = self.beta * h.margin
        right = torch.sigmoid(z) * (F.logsigmoid(z) - math.log1p(-self.alpha))
        wrong = torch.sigmoid(-z) * (F.logsigmoid(-z) - math.log(self.alpha))
        return Outcome(right + wrong, pair_metrics(h, self.beta), state)
