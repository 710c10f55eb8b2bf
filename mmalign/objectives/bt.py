"""Bradley-Terry: a reward model learns to score the chosen response above the rejected one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class BradleyTerry(Objective):
    """Bradley-Terry on scores r (arXiv 2203.02155, eq. 1), with the margin of arXiv 2307.09288, eq. 2.

    loss = -(1 - t) log sigmoid(d - m) - t (log sigmoid(d) + log sigmoid(-d)) / 2 + c s^2
    with d = r_chosen - r_rejected and s = r_chosen + r_rejected. m is the row's label `margin`, or 0; t is
    the row's label `tie`, or 0: a tied pair is drawn to equal scores and its margin does not count. c =
    `centre` holds the scores, which only their differences fix, around 0 (arXiv 2312.09244; 0.01 is usual).
    A pair's strength can also scale its loss: that is the row's `weight`. Needs adapter reward_head with one
    aspect.
    """

    # ask by the row's label `margin` how far apart scores must lie, or not
    margin: Literal["none", "label"] = "none"
    # draw pairs with label `tie` to equal scores, or take them like any
    ties: Literal["none", "label"] = "none"
    centre: float = 0.0  # weight of the term that holds scores around 0; 0.01 is usual

    roles = {"policy": PAIR}
    needs = frozenset({"reward"})

    def __post_init__(self) -> None:
        require(self.centre >= 0, f"centre: must be 0 or more, got {self.centre}")

    @property
    def fields(self) -> tuple[str, ...]:
        """Labels that are used must be in every row."""
        wanted = {"margin": self.margin, "tie": self.ties}
        return tuple(name for name, source in wanted.items() if source == "label")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where both sides score alike."""
        chosen = scores["policy"]["chosen"].total()
        rejected = scores["policy"]["rejected"].total()
        difference = chosen - rejected
        z = difference - labels["margin"] if self.margin == "label" else difference
        loss = -F.logsigmoid(z)
        preferred = torch.ones_like(difference)  # the share of raters who prefer the chosen side
        if self.ties == "label":
            even = -0.5 * (F.logsigmoid(difference) + F.logsigmoid(-difference))
            loss = torch.where(labels["tie"] > 0.5, even, loss)
            preferred = torch.where(labels["tie"] > 0.5, 0.5, preferred)
        if self.centre:
            loss = loss + self.centre * (chosen + rejected).square()

        gap = difference.detach()
        decided = preferred > 0.5
        nothing = torch.full_like(gap, torch.nan)  # a tied pair has no side that should win
        metrics = {
            "reward/chosen": chosen.detach(),
            "reward/rejected": rejected.detach(),
            "reward/margin": gap,
            "reward/mean": 0.5 * (chosen + rejected).detach(),
            "accuracy": torch.where(decided, (gap > 0).to(gap.dtype), nothing),
            "implicit_acc": torch.where(decided, 0.5 * (1.0 + torch.sign(gap)), nothing),
            "brier": (preferred - torch.sigmoid(gap)).square(),
        }
        return Outcome(loss, metrics, state)
