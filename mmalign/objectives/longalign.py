"""LongAlign: a decomposed reward of text and picture, through single predictions along the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.objectives._pairs import require
from mmalign.objectives._rewards import PROMPTS, on_reward
from mmalign.types import AllMean, Objective, Outcome, Rollout, Scores, State


@dataclass(frozen=True)
class LongAlign(Objective):
    """Reward stage of LongAlign (arXiv 2410.11817): loss = (1 - R) / 2 of finished pictures.

    Every `every`-th of `steps` predictions keeps its gradient, from a random one on; what the denoiser is
    given is detached, so that gradients flow along the latents alone. Its reward is `denscore`, which weighs
    down what all captions have in common; the released loss differs from this one by a constant.
    """

    steps: int = 50  # of sampling
    every: int = 10  # each so many-th of them keeps its gradient
    guidance: float = 7.5  # of sampling; 1: none

    roles = PROMPTS
    needs = frozenset({"sampler"})

    def __post_init__(self) -> None:
        require(1 <= self.every <= self.steps, f"every: must lie in 1..{self.steps}, got {self.every}")
        require(self.guidance >= 1, f"guidance: must be 1 or more, got {self.guidance}")

    @property
    def rollout(self) -> Rollout:
        """Single predictions with a gradient, evenly spread."""
        return Rollout(self.steps, (0, self.every - 1), every=self.every, guidance=self.guidance)

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]."""
        return on_reward((1 - labels["reward"]) / 2, labels, state)
