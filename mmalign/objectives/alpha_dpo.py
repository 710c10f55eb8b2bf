"""Alpha-DPO: an alpha divergence in place of the logarithm, for data with some labels flipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, pair_metrics, ratios, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class AlphaDPO(Objective):
    """Alpha-DPO ("Robust Preference Alignment for Diffusion Models via alpha Divergence", ICLR 2026), on the
    logit z = beta * margin of Diffusion-DPO (arXiv 2311.12908).

    loss = (u^a - a u - (1 - a)) / (a (a - 1)), u = sigmoid(z), a = `alpha`. alpha 0 is the limit
    -log u + u - 1. A pair far on the wrong side pulls with beta * e^(a z) / (1 - a): the larger alpha, the
    sooner it is taken for a flipped label and let go, while DPO pulls with its full beta. `schedule:
    confidence` multiplies alpha by the mean of u over the step, without gradient, as the authors' second
    phase does; here from the first step, where u is one half. Not the f-DPO of that name, and not the
    alpha-DPO of language models that moves the reference.
    """

    beta: float = 0.1  # strength of the pull to the reference, as in dpo
    alpha: float = 0.5  # the larger, the sooner a pair far on the wrong side is let go; 0 is the limit
    # confidence multiplies alpha by the mean probability that pairs have the right order
    schedule: Literal["constant", "confidence"] = "constant"

    roles = PAIR_WITH_REFERENCE
    surrogate_beta = 2000.0

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(0 <= self.alpha < 1, f"alpha: must lie in [0, 1), got {self.alpha}")
        require(
            self.schedule == "constant" or self.alpha > 0, f"schedule: {self.schedule} needs alpha above 0"
        )

    @property
    def batch_coupled(self) -> bool:
        """The schedule reads the mean over the step."""
        return self.schedule == "confidence"

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; 0.171573 (alpha 0.5) where policy and reference agree, between 0 and 1 / alpha."""
        h = ratios(scores)
        z = self.beta * h.margin
        alpha = torch.full_like(z.detach(), self.alpha)
        if self.schedule == "confidence":
            alpha = alpha * all_mean(torch.sigmoid(z.detach()))
        log_u = F.logsigmoid(z)
        # (u^a - 1) / a, whose limit at a = 0 is log u
        power = torch.expm1(alpha * log_u) / alpha if self.alpha else log_u
        loss = -(power + torch.sigmoid(-z)) / (1 - alpha)
        return Outcome(loss, {**pair_metrics(h, self.beta), "alpha": alpha}, state)
