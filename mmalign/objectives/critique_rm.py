"""A reward model that writes a critique of a response and is scored behind it: both parts in one loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from mmalign.objectives._pairs import require
from mmalign.types import AllMean, LogProbs, Objective, Outcome, Scores, State

SIDES = ("chosen_critique", "rejected_critique")
"""The roles of the critiques of both sides, each under its prompt and response."""


@dataclass(frozen=True)
class CritiqueRewardModel(Objective):
    """The critique-based reward model of MM-RLHF (arXiv 2502.10391): one backbone, two heads.

    What is scored of a side is its prompt, its response and a critique of that (fields `chosen_critique` and
    `rejected_critique` of a row), which the language model's head is to write and behind which the score r is
    read. With d = r_chosen - r_rejected, loss = score_weight * (- log sigmoid(d - m), or tie_weight * d^2 for
    a tied pair) + centre * (r_chosen + r_rejected)^2 + critique_weight * (l_chosen + l_rejected), l the
    negative log-likelihood of the critique per token. m is the label `margin` or 0; ties go by the label
    `tie` if `ties` says so. A row with both fields empty is scored behind its bare answers, and l is 0.
    The step averages over all pairs, where the released code averages ties and others apart. Needs adapter
    reward_head with one aspect and `critiques: true`.
    """

    score_weight: float = 1.0  # weight of the scores' part of the loss
    critique_weight: float = 1.0  # weight of writing the critiques
    tie_weight: float = 1.0  # weight of a tied pair's squared distance
    centre: float = 0.01  # weight of the term that holds scores around 0
    # ask by the row's label `margin` how far apart scores must lie, or not
    margin: Literal["none", "label"] = "none"
    # draw pairs with label `tie` to equal scores, or take them like any
    ties: Literal["none", "label"] = "none"

    roles = {"policy": SIDES}
    needs = frozenset({"reward", "written"})

    def __post_init__(self) -> None:
        require(self.score_weight > 0, f"score_weight: must be above 0, got {self.score_weight}")
        require(
            self.critique_weight > 0, f"critique_weight: above 0, got {self.critique_weight}; else use bt"
        )
        for name in ("tie_weight", "centre"):
            value = getattr(self, name)
            require(value >= 0, f"{name}: must be 0 or more, got {value}")

    @property
    def fields(self) -> tuple[str, ...]:
        """Labels that are used must be in every row; `criticised` comes with the critiques' roles."""
        wanted = {"margin": self.margin, "tie": self.ties}
        return ("criticised", *(name for name, source in wanted.items() if source == "label"))

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 and the critiques' likelihoods where both sides score alike, around 0."""
        sides = scores["policy"]
        chosen, rejected = (sides[role].total() for role in SIDES)
        given = labels["criticised"] > 0.5
        written = _written(sides[SIDES[0]]).nll("mean") + _written(sides[SIDES[1]]).nll("mean")
        difference = chosen - rejected
        ranking = -F.logsigmoid(difference - labels["margin"] if self.margin == "label" else difference)
        decided = torch.ones_like(difference, dtype=torch.bool)
        if self.ties == "label":
            decided = labels["tie"] <= 0.5
            ranking = torch.where(decided, ranking, self.tie_weight * difference.square())
        terms = {
            "loss/score": self.score_weight * ranking,
            "loss/centre": self.centre * (chosen + rejected).square(),
            "loss/critique": self.critique_weight * torch.where(given, written, 0.0),
        }
        gap = difference.detach()
        nothing = torch.full_like(gap, torch.nan)  # a tied pair has no side that should win
        metrics = {
            "reward/chosen": chosen.detach(),
            "reward/rejected": rejected.detach(),
            "reward/margin": gap,
            "accuracy": torch.where(decided, (gap > 0).to(gap.dtype), nothing),
            "critique_nll": torch.where(given, 0.5 * written.detach(), nothing),
            **{name: term.detach() for name, term in terms.items()},
        }
        return Outcome(sum(terms.values(), start=gap.new_zeros(())), metrics, state)


def _written(side: LogProbs) -> LogProbs:
    if side.written is None:
        raise ValueError("critique_rm: these scores carry no likelihood of what was written")
    return side.written
