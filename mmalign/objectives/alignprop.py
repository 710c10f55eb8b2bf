"""AlignProp: the reward of finished pictures, through a random number of the last sampling steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.objectives._pairs import require
from mmalign.objectives._rewards import PROMPTS, on_reward
from mmalign.types import AllMean, Objective, Outcome, Rollout, Scores, State


@dataclass(frozen=True)
class AlignProp(Objective):
    """AlignProp (arXiv 2310.03739) with randomised truncation.

    Steps before K take no gradient, K = round(N(mean, deviation)) drawn anew until it lies in [1, steps).
    loss = scale * |target - R|: 0.01 * (1 - R) of the released code for rewards below 1 such as HPSv2's
    cosine, 0.01 * |10 - R| for an aesthetic score.
    """

    scale: float = 0.01  # of the loss
    target: float = 1.0  # reward that is aimed at
    steps: int = 50  # of sampling
    mean: float = 42.0  # step from which gradients flow, on average
    deviation: float = 5.0  # standard deviation of that step
    guidance: float = 5.0  # of sampling; 1: none

    roles = PROMPTS
    needs = frozenset({"sampler"})

    def __post_init__(self) -> None:
        require(self.scale > 0, f"scale: must be above 0, got {self.scale}")
        require(self.steps >= 2, f"steps: must be 2 or more, got {self.steps}")
        require(self.deviation > 0, f"deviation: must be above 0, got {self.deviation}")
        require(1 <= self.mean < self.steps, f"mean: must lie in [1, steps), got {self.mean}")
        require(self.guidance >= 1, f"guidance: must be 1 or more, got {self.guidance}")

    @property
    def rollout(self) -> Rollout:
        """Steps from a random one on keep their gradient."""
        spread = (self.mean, self.deviation)
        return Rollout(self.steps, (1, self.steps - 1), spread, guidance=self.guidance)

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; 0 at the target."""
        return on_reward(self.scale * (self.target - labels["reward"]).abs(), labels, state)
