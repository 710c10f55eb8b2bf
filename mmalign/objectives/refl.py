"""ReFL: the reward of the picture that a late sampling step already predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.objectives._pairs import require
from mmalign.objectives._rewards import PROMPTS, on_reward
from mmalign.types import AllMean, Objective, Outcome, Rollout, Scores, State


@dataclass(frozen=True)
class ReFL(Objective):
    """ReFL (arXiv 2304.05977, algorithm 1), a comparator without a likelihood.

    Sampling runs without a gradient to a step drawn between `first` and `last`, counted from 0, of `steps`;
    that step keeps its gradient, and the picture of the clean latents it predicts is judged. loss =
    scale * relu(target - R). Released constants fit a reward of mean 0 and deviation 1: another one needs its
    own `target`. Nothing holds the model near its base: watch a reward that was not trained on.
    """

    scale: float = 1e-3  # of the loss
    target: float = 2.0  # reward up to which a picture is pushed; 2 fits rewards of mean 0 and deviation 1
    steps: int = 40  # of sampling
    first: int = 30  # earliest step that may keep its gradient, counted from 0
    last: int = 39  # latest of them
    guidance: float = 1.0  # of sampling; 1: none

    roles = PROMPTS
    needs = frozenset({"sampler"})

    def __post_init__(self) -> None:
        require(self.scale > 0, f"scale: must be above 0, got {self.scale}")
        require(self.guidance >= 1, f"guidance: must be 1 or more, got {self.guidance}")
        require(
            0 <= self.first <= self.last < self.steps,
            f"first: needs 0 <= first <= last < steps, got {self.first}, {self.last}, {self.steps}",
        )

    @property
    def rollout(self) -> Rollout:
        """One step with a gradient, and what it predicts."""
        return Rollout(self.steps, (self.first, self.last), predict=True, guidance=self.guidance)

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; 0 for pictures whose reward has reached the target."""
        return on_reward(self.scale * (self.target - labels["reward"]).relu(), labels, state)
