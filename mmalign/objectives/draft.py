"""DRaFT: the reward of finished pictures, through the last steps of the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.objectives._pairs import require
from mmalign.objectives._rewards import PROMPTS, on_reward
from mmalign.types import AllMean, Objective, Outcome, Rollout, Scores, State


@dataclass(frozen=True)
class DRaFT(Objective):
    """DRaFT-K (arXiv 2309.17400, section 4): loss = -R, with a gradient through the last `last` of `steps`
    sampling steps; `last` = steps is DRaFT itself. Steps are computed again in backward.

    The reward is maximised without a bound and without a reference: it will be over-optimised, so stop early
    and watch another one. Scale the reward with the learning rate: the loss is R itself.
    """

    last: int = 1  # sampling steps at the end that have a gradient
    steps: int = 50  # of sampling
    guidance: float = 7.5  # of sampling; 1: none

    roles = PROMPTS
    needs = frozenset({"sampler"})

    def __post_init__(self) -> None:
        require(1 <= self.last <= self.steps, f"last: must lie in 1..{self.steps}, got {self.last}")
        require(self.guidance >= 1, f"guidance: must be 1 or more, got {self.guidance}")

    @property
    def rollout(self) -> Rollout:
        """The last steps keep their gradient."""
        first = self.steps - self.last
        return Rollout(self.steps, (first, first), guidance=self.guidance)

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]."""
        return on_reward(-labels["reward"], labels, state)
