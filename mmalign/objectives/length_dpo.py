"""Length-regularised DPO: a pair whose longer answer is preferred pulls less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, pair_metrics, ratios, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class LengthDPO(Objective):
    """Length-regularised DPO (R-DPO, arXiv 2403.19159; for radiology reports arXiv 2410.07025).

    loss = -(1 - e) log sigmoid(z) - e log sigmoid(-z), z = beta * (h_chosen - h_rejected) + alpha *
    (|chosen| - |rejected|), with h the log-ratio policy / reference and | | a response's scored tokens, its
    end token too. Where the longer answer is preferred, z is larger from the start and the pair pulls less;
    where the shorter is, it pulls more. `alpha` 0.05 (2410.07025) is half a unit of z for ten tokens, so long
    answers want less of it. `label_smoothing` e is the share of flipped labels; a flipped pair has both signs
    turned, its length term too. The metric `length_ratio` is |chosen| / |rejected| of the data; how long the
    policy's own answers grow is for an evaluation. For models that score tokens. This loss is called rDPO in
    places, as are two others; here `rdpo` is the one for flipped labels.
    """

    beta: float = 0.1  # strength of the pull to the reference, as in dpo
    alpha: float = 0.05  # reward for each token that chosen is longer than rejected, taken as given
    label_smoothing: float = 0.0  # assumed share of flipped labels

    roles = PAIR_WITH_REFERENCE
    needs = frozenset({"ratio", "units"})

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(self.alpha > 0, f"alpha: must be above 0, got {self.alpha}; without it use dpo")
        require(0 <= self.label_smoothing < 0.5, f"label_smoothing: [0, 0.5), got {self.label_smoothing}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree and both answers are equally long."""
        h, policy = ratios(scores), scores["policy"]
        chosen, rejected = policy["chosen"].length, policy["rejected"].length
        z = self.beta * h.margin + self.alpha * (chosen - rejected)
        loss = -(1 - self.label_smoothing) * F.logsigmoid(z) - self.label_smoothing * F.logsigmoid(-z)
        metrics = {**pair_metrics(h, self.beta), "length_ratio": (chosen / rejected).detach()}
        return Outcome(loss, metrics, state)
