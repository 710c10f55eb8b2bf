"""DSPO: the winner's denoising target moves along the gradient of the preference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, pair_metrics, ratios, require
from mmalign.types import AllMean, LogProbs, Objective, Outcome, Scores, State

_FAR = 0.1  # mean squared distance from the reference at which the sdxl form changes


@dataclass(frozen=True)
class DSPO(Objective):
    """Direct score preference optimisation (ICLR 2025), by its authors' two training scripts, with the logit
    z = beta * margin of Diffusion-DPO (arXiv 2311.12908) and d = prediction - reference prediction of the
    chosen side; squares are means over all elements.

    `form: sd15`: loss = (prediction - target - beta (1 - sigmoid(z)) d)^2 on the chosen side. One `beta`
    serves both places, 0.001 to 0.05, so sigmoid(z) stays at one half: in effect the winner is denoised to a
    target moved past itself, away from the reference, by half of beta. `form: sdxl` is another loss, which
    the paper does not have: with q the mean of d^2 over the step, on all processes, (1 - sigmoid(z))^2 while
    q < 0.1 and ((1 - sigmoid(z)) d)^2 from there on; beta 1000 to 5000. Nothing holds the winner's error.
    """

    beta: float = 0.01  # 0.001 to 0.05 with form sd15, 1000 to 5000 with sdxl
    form: Literal["sd15", "sdxl"] = "sd15"  # which of the authors' two scripts

    roles = PAIR_WITH_REFERENCE
    needs = frozenset({"ratio", "prediction"})

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        small = self.form == "sd15"
        require(not small or self.beta < 2, f"beta: with form sd15 below 2 (0.01 is usual), got {self.beta}")

    @property
    def batch_coupled(self) -> bool:
        """The sdxl form compares the step's mean with a threshold."""
        return self.form == "sdxl"

    @property
    def surrogate_beta(self) -> float | None:
        """The sdxl form has a beta of the size of DPO's."""
        return 2000.0 if self.form == "sdxl" else None

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; where policy and reference agree the chosen error (sd15) or 1/4 (sdxl)."""
        h = ratios(scores)
        doubt = torch.sigmoid(-self.beta * h.margin)
        residual, distance = _tensors(scores["policy"]["chosen"], scores["reference"]["chosen"])
        squared = distance.square().mean(-1)
        if self.form == "sd15":
            loss = (residual - self.beta * doubt[:, None] * distance).square().mean(-1)
        else:
            far = all_mean(squared.detach()) >= _FAR
            loss = doubt.square() * torch.where(far, squared, torch.ones_like(squared))
        return Outcome(loss, {**pair_metrics(h, self.beta), "distance": squared.detach()}, state)


def _tensors(ours: LogProbs, theirs: LogProbs) -> tuple[Tensor, Tensor]:
    """Prediction minus target, and minus the reference's prediction, of every sample, [S, elements]."""
    if ours.prediction is None or ours.target is None or theirs.prediction is None:
        raise ValueError("dspo: these scores carry no predictions")
    prediction = ours.prediction.flatten(1)
    return prediction - ours.target.flatten(1), prediction - theirs.prediction.flatten(1)
