"""MM-DPO: DPO whose beta grows with how far a reward model sets the two answers apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, pair_metrics, ratios, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class MMDPO(Objective):
    """MM-DPO (arXiv 2502.10391), by the paper's formula.

    loss = -log sigmoid(b(delta) * (h_chosen - h_rejected)), b(delta) = beta * (1 + w (1 - exp(-k delta))),
    kept within [beta, (1 + w) beta]: a pair whose answers are clearly apart counts with up to 1 + w times the
    beta. delta = r(chosen) - r(rejected) by a reward model. `gap` says where it comes from: the row's label
    `margin`, or the `score` of both answers (`chosen_score`, `rejected_score`). b has no gradient.
    The paper adds its supervised term by a sum with `{name: sft, reduction: token_mean, weight: 0.25}`, the
    weight searched from 0 to 1. The released code multiplies beta by 1 + w times a number of the row, which
    is this formula where the exponential was applied beforehand; by default it overrides that with a beta of
    a random part of the global batch's own margins, which the paper itself reports to be of no help. Neither
    is offered.
    """

    beta: float = 0.1  # strength of the pull to the reference, as in dpo, for pairs without a gap
    w: float = 0.5  # beta grows to (1 + w) beta where answers are clearly apart
    k: float = 0.5  # how fast it grows with the gap
    # distance of the answers by a reward model: the label `margin`, or the scores of both
    gap: Literal["margin", "scores"] = "margin"

    roles = PAIR_WITH_REFERENCE
    surrogate_beta = 2000.0

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(self.w > 0, f"w: must be above 0, got {self.w}; without it use dpo")
        require(self.k > 0, f"k: must be above 0, got {self.k}; without it use dpo")

    @property
    def fields(self) -> tuple[str, ...]:
        """The gap of every pair, or the score of both its answers."""
        return ("margin",) if self.gap == "margin" else ("score",)

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree."""
        h = ratios(scores)
        beta = self._beta(labels).to(h.chosen)
        loss = -F.logsigmoid(beta * h.margin)
        return Outcome(loss, {**pair_metrics(h, beta), "beta": beta}, state)

    def _beta(self, labels: Mapping[str, Any]) -> Tensor:
        """beta(delta), [S]; a reward model that is against the pair leaves it at `beta`."""
        if self.gap == "margin":
            delta = labels["margin"]
        else:
            delta = labels["chosen.score"] - labels["rejected.score"]
        # clamped before the exponential: a gap far below 0 would overflow it
        grown = 1 - torch.exp(-self.k * delta.detach().clamp(min=0))
        return self.beta * (1 + self.w * grown)
