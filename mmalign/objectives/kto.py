"""Kahneman-Tversky Optimization: learns from single responses marked good or bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmalign.objectives._pairs import require
from mmalign.types import AllMean, Objective, Outcome, Scores, State, View

Utility = Literal["kto", "loss_averse", "risk_seeking", "risk_seeking_signed", "risk_seeking_exp"]


@dataclass(frozen=True)
class KTO(Objective):
    """KTO (arXiv 2402.01306, eq. 8) on responses with a binary label; with `baseline: batch` on surrogate
    scores, Diffusion-KTO (arXiv 2404.04465).

    loss = lam * (1 - U), U = sigmoid(y * beta * (h - z0)), y = +1 for a good response, -1 for a bad one; lam
    is `desirable_weight` or `undesirable_weight`. A surrogate holds half the error, so our beta is twice the
    one Diffusion-KTO prints: 2000 for its 1000. Noise is drawn per response; nothing has to be paired.

    The baseline z0 carries no gradient; its means run over all samples of the optimizer step, on all
    processes. `mismatched` estimates KL(policy || reference) by h over responses under a foreign prompt, as
    KTO does; `batch` averages h over the responses themselves; both are clamped at 0. `midpoint` is half
    the mean h of the good responses plus half that of the bad ones, not clamped: with a step of few good
    responses the plain mean is mostly that of the bad ones. A step without one kind has the other's mean.

    `utility` U, with x = y * beta * (h - z0): `kto` sigmoid(x), steep around the baseline; `loss_averse`
    log sigmoid(x), concave, a cross entropy; `risk_seeking` -log sigmoid(-x), convex: what is already good
    keeps gaining, without bound from below in the loss. Diffusion-KTO's code has two further convex ones, not
    functions of x alone: `risk_seeking_signed` -y log sigmoid(-y x) and `risk_seeking_exp`
    y exp(y x / 100) - 1. The convex ones are for comparisons.
    """

    # strength of the pull to the reference: 0.1 for text, twice the printed one for diffusion
    beta: float = 0.1
    desirable_weight: float = 1.0  # weight of good responses
    undesirable_weight: float = 1.0  # weight of bad responses
    # what log-ratios are measured from: foreign prompts, the batch, or half of each kind
    baseline: Literal["mismatched", "batch", "midpoint"] = "mismatched"
    utility: Utility = "kto"  # shape of what a response is worth; kto is steep around the baseline

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
        """Loss [S]; where policy and reference agree, lam / 2 with `utility: kto`."""
        policy, reference = scores["policy"], scores["reference"]
        h = policy["completion"].ratio(reference["completion"])
        good = labels["binary"] > 0.5
        if self.baseline == "midpoint":
            z0 = _midpoint(h.detach(), good, all_mean)
        else:
            twin = "mismatched" if self.baseline == "mismatched" else "completion"
            z0 = all_mean(policy[twin].ratio(reference[twin]).detach()).clamp(min=0)
        one = torch.ones_like(h)
        sign = torch.where(good, one, -one)
        weight = torch.where(good, self.desirable_weight * one, self.undesirable_weight * one)
        loss = weight * (1 - _utility(self.utility, self.beta * (h - z0), sign))

        reward = (self.beta * h).detach()
        nothing = torch.full_like(reward, torch.nan)  # a mean over the good responses only skips the others
        metrics = {
            "reward/good": torch.where(good, reward, nothing),
            "reward/bad": torch.where(good, nothing, reward),
            "good_falling": torch.where(good, (reward < 0).to(reward.dtype), nothing),
            "baseline": (self.beta * z0).expand_as(reward),
        }
        return Outcome(loss, metrics, state)


def _utility(name: Utility, value: Tensor, sign: Tensor) -> Tensor:
    """U of the values beta * (h - z0) [S] with their labels' signs [S]."""
    if name == "kto":
        return torch.sigmoid(sign * value)
    if name == "loss_averse":
        return F.logsigmoid(sign * value)
    if name == "risk_seeking":
        return F.softplus(sign * value)
    if name == "risk_seeking_signed":
        return sign * F.softplus(value)
    return sign * torch.exp(value / 100) - 1


def _midpoint(h: Tensor, good: Tensor, all_mean: AllMean) -> Tensor:
    """The middle between the two classes' means over all processes, a scalar."""
    high, low = all_mean(h, good), all_mean(h, ~good)  # 0 where a class is empty
    share = all_mean(good.to(h.dtype))
    one_class = torch.where(share > 0.5, high, low)
    return torch.where((share > 0) & (share < 1), 0.5 * (high + low), one_class)
