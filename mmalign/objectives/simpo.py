"""SimPO: likelihood per token as the reward, a target margin, and no reference model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR, require, reward_metrics
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class SimPO(Objective):
    """SimPO (arXiv 2405.14734, eq. 6): loss = -log sigmoid(beta * (M_chosen - M_rejected) - gamma).

    M is the policy's mean log-probability per token of a response. `gamma` is the target margin of the
    rewards beta * M and is subtracted as it stands; the authors' code asks for gamma / beta (0.5 for the
    defaults here). beta 2 to 10, and learning rates of 1e-6 or less for models of billions of weights.
    Surrogate scores are refused: two pictures' denoising errors are not comparable without a reference.
    """

    beta: float = 2.0  # scale of the log-probabilities per token: 2 to 10
    gamma: float = 1.0  # margin that the rewards should keep, as it stands

    roles = {"policy": PAIR}
    needs = frozenset({"absolute", "length"})

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(self.gamma >= 0, f"gamma: must be 0 or more, got {self.gamma}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; log(1 + exp(gamma)) where both responses are equally likely per token."""
        chosen, rejected = scores["policy"]["chosen"].mean(), scores["policy"]["rejected"].mean()
        z = self.beta * (chosen - rejected) - self.gamma
        metrics = reward_metrics(chosen, rejected, self.beta)
        metrics["target_reached"] = (z.detach() >= 0).to(z.dtype)
        return Outcome(-F.logsigmoid(z), metrics, state)
