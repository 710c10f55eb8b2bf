"""Kahneman-Tversky Optimization: learns from single responses marked good or bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mmalign.objectives._pairs import require
from mmalign.types import AllMean, Objective, Outcome, Scores, State, View


@dataclass(frozen=True)
class KTO(Objective):
    """KTO (arXiv 2402.01306, eq. 8) on responses with a binary label.

    loss = lam * (1 - sigmoid(y * beta * (h - z0))), y = +1 for a good response, -1 for a bad one; lam is
    `desirable_weight` or `undesirable_weight`. The baseline z0 estimates KL(policy || reference), is clamped
    at 0 and carries no gradient: `mismatched` averages h over responses paired with a foreign prompt,
    as the paper does; `batch` averages h over the responses themselves, as Diffusion-KTO does (arXiv
    2404.04465; its beta is half of ours because a surrogate holds half the error). The mean runs over all
    samples of the optimizer step, on all processes.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    baseline: Literal["mismatched", "batch"] = "mismatched"

    fields = ("binary",)
    batch_coupled = True
    surrogate_beta = 2000.0

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        for name in ("desirable_weight", "undesirable_weight"):
            value = getattr(self, name)
            require(value >= 0, f"{name}: must be 0 or more, got {value}")

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """Both sources score the response, and its mismatched twin where the baseline needs it."""
        scored = ("completion", "mismatched") if self.baseline == "mismatched" else ("completion",)
        return {"policy": scored, "reference": scored}

    @property
    def detached(self) -> tuple[str, ...]:
        """The baseline carries no gradient."""
        return ("mismatched",) if self.baseline == "mismatched" else ()

    @property
    def views(self) -> Mapping[str, View]:
        """The mismatched role is the same prompt with another sample's response."""
        return {"mismatched": View("completion", "other_response")} if self.baseline == "mismatched" else {}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; lam / 2 where policy and reference agree."""
        policy, reference = scores["policy"], scores["reference"]
        h = policy["completion"].ratio(reference["completion"])
        twin = "mismatched" if self.baseline == "mismatched" else "completion"
        z0 = all_mean(policy[twin].ratio(reference[twin]).detach()).clamp(min=0)
        good = labels["binary"] > 0.5
        one = torch.ones_like(h)
        sign = torch.where(good, one, -one)
        weight = torch.where(good, self.desirable_weight * one, self.undesirable_weight * one)
        loss = weight * (1 - torch.sigmoid(sign * self.beta * (h - z0)))

        reward = (self.beta * h).detach()
        nothing = torch.full_like(reward, torch.nan)  # a mean over the good responses only skips the others
        metrics = {
            "reward/good": torch.where(good, reward, nothing),
            "reward/bad": torch.where(good, nothing, reward),
            "good_falling": torch.where(good, (reward < 0).to(reward.dtype), nothing),
            "baseline": (self.beta * z0).expand_as(reward),
        }
        return Outcome(loss, metrics, state)
