"""Linear-DPO: a linear loss on errors with a weight that falls as the pair is told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.objectives._pairs import PAIR, PAIR_WITH_REFERENCE, Ratios, pair_metrics, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class LinearDPO(Objective):
    """Linear-DPO (arXiv 2605.21123), by its authors' training code, on raw prediction errors e.

    loss = a (e_chosen - e_rejected), a = clamp(1/2 + 0.2 beta D, eta, 1 - eta) without gradient, where
    D = (e - r)_chosen - (e - r)_rejected and r is the reference's error. The line stands for DPO's sigmoid: a
    pair told apart by D = -2.5 / beta is left alone (`eta` 0) or keeps the share eta of its pull for good,
    and one as far on the wrong side pulls with 1 - eta. `beta` is on whole errors: 100 (SD1.5, eta 0.001)
    and 500 (SDXL, eta 0) by the authors, beside `reference.name: ema`. A timestep weighting of the model is
    not read; text and other exact models have no errors and are refused.
    """

    beta: float = 100.0  # slope on whole errors: 100 (SD1.5) to 500 (SDXL)
    eta: float = 0.001  # least share of its pull that a pair keeps

    roles = PAIR_WITH_REFERENCE
    needs = frozenset({"error"})

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(0 <= self.eta < 0.5, f"eta: must lie in [0, 0.5), got {self.eta}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; (e_chosen - e_rejected) / 2 where policy and reference agree, and of either sign."""
        error = {role: scores["policy"][role].mean_error() for role in PAIR}
        gain = {role: scores["reference"][role].mean_error() - error[role] for role in PAIR}
        h = Ratios(0.5 * gain["chosen"], 0.5 * gain["rejected"])  # a log-ratio is half a gain in error
        weight = (0.5 - 0.4 * self.beta * h.margin.detach()).clamp(self.eta, 1 - self.eta)
        loss = weight * (error["chosen"] - error["rejected"])
        return Outcome(loss, {**pair_metrics(h, self.beta), "pair_pull": weight}, state)
