"""Shared by pairwise objectives: the two roles, their log-ratios, and the metrics that are always logged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmalign.types import Scores

PAIR = ("chosen", "rejected")
PAIR_WITH_REFERENCE = {"policy": PAIR, "reference": PAIR}


@dataclass(frozen=True)
class Ratios:
    """Log-ratios policy / reference of both sides, [S] each, and their difference, the margin."""

    chosen: Tensor
    rejected: Tensor

    @property
    def margin(self) -> Tensor:
        """h(chosen) - h(rejected), [S]; positive is the wanted direction."""
        return self.chosen - self.rejected


def ratios(scores: Scores) -> Ratios:
    """Log-ratios of a pair against the reference, subtracted per unit before summing."""
    policy, reference = scores["policy"], scores["reference"]
    return Ratios(
        policy["chosen"].ratio(reference["chosen"]),
        policy["rejected"].ratio(reference["rejected"]),
    )


def pair_metrics(h: Ratios, beta: float | Tensor) -> dict[str, Tensor]:
    """`reward_metrics` of the implicit rewards beta * h, and whether the chosen side lost likelihood. Each
    [S], detached."""
    falling = (h.chosen.detach() < 0).to(h.chosen.dtype)
    return {**reward_metrics(h.chosen, h.rejected, beta), "chosen_falling": falling}


def reward_metrics(chosen: Tensor, rejected: Tensor, beta: float | Tensor) -> dict[str, Tensor]:
    """Rewards beta * score of both sides, their margin, accuracy (a tie counts as wrong) and `implicit_acc`
    (a tie counts one half). Each [S], detached."""
    chosen, rejected = chosen.detach(), rejected.detach()
    return {
        "reward/chosen": beta * chosen,
        "reward/rejected": beta * rejected,
        "reward/margin": beta * (chosen - rejected),
        "accuracy": (chosen > rejected).to(chosen.dtype),
        "implicit_acc": 0.5 * (1.0 + torch.sign(chosen - rejected)),
    }


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds; for range checks of objective fields."""
    if not condition:
        raise ValueError(message)
