"""Direct Preference Optimization; on a diffusion or flow model the same line is Diffusion-DPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, pair_metrics, ratios, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class DPO(Objective):
    """DPO (arXiv 2305.18290, eq. 7) and, on surrogate scores, Diffusion-DPO (arXiv 2311.12908, eq. 14).

    loss = -(1 - e) log sigmoid(z) - e log sigmoid(-z), z = beta * (h_chosen - h_rejected) - offset, with h
    the log-ratio policy / reference summed over tokens. A surrogate is -w(t) * error / 2, so the published
    beta of the half-squared-error convention applies as it stands: 0.1 for text, 2000 (SD1.5) to 5000 (SDXL)
    for diffusion. `label_smoothing` e is the assumed share of flipped labels (conservative DPO);
    `margin` times the row's label `margin` is the offset (ODPO, arXiv 2402.10571). The trainer applies pair
    weights.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    margin: float = 0.0

    roles = PAIR_WITH_REFERENCE
    surrogate_beta = 2000.0

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(0 <= self.label_smoothing < 0.5, f"label_smoothing: [0, 0.5), got {self.label_smoothing}")
        require(self.margin >= 0, f"margin: must be 0 or more, got {self.margin}")

    @property
    def fields(self) -> tuple[str, ...]:
        """A margin per pair is needed only if it is used."""
        return ("margin",) if self.margin else ()

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree."""
        h = ratios(scores)
        z = self.beta * h.margin
        if self.margin:
            z = z - self.margin * labels["margin"]
        loss = -(1 - self.label_smoothing) * F.logsigmoid(z) - self.label_smoothing * F.logsigmoid(-z)
        return Outcome(loss, pair_metrics(h, self.beta), state)
