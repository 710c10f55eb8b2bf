"""Identity Preference Optimization: regress the margin on a constant instead of pushing it to infinity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, Ratios, pair_metrics, ratios, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class IPO(Objective):
    """IPO (arXiv 2310.12036, eq. 17): loss = (margin - 1 / (2 tau))^2.

    `reduction: mean` divides each log-ratio by its number of tokens, as the authors' runs did; `sum` does
    not (tau then has to shrink by about the length). A surrogate has length 1, so both agree there.
    `scale: unit` multiplies the loss by tau^2, which makes it 0.25 at the start whatever tau is: use it with
    diffusion-sized constants (tau 1000 to 5000), where the printed form gives vanishing gradients.
    """

    tau: float = 0.1  # the margin aimed at is 1 / (2 tau)
    reduction: Literal["mean", "sum"] = "mean"  # log-ratios per token, as the authors' runs, or summed
    scale: Literal["paper", "unit"] = "paper"  # as printed, or times tau^2 for diffusion-sized constants

    roles = PAIR_WITH_REFERENCE
    needs = frozenset({"ratio", "length"})
    surrogate_beta = 2000.0
    surrogate_advice = " with scale=unit"

    def __post_init__(self) -> None:
        require(self.tau > 0, f"tau: must be above 0, got {self.tau}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; 1 / (4 tau^2) where policy and reference agree (0.25 with `scale: unit`)."""
        h = ratios(scores)
        if self.reduction == "mean":
            policy = scores["policy"]
            h = Ratios(h.chosen / policy["chosen"].length, h.rejected / policy["rejected"].length)
        if self.scale == "unit":
            loss = (self.tau * h.margin - 0.5) ** 2
        else:
            loss = (h.margin - 1 / (2 * self.tau)) ** 2
        return Outcome(loss, pair_metrics(h, self.tau), state)
