"""BDHS: two pairs in one, the rejected answer of the data and one written with the picture hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from mmalign.objectives._pairs import Ratios, pair_metrics, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State

BLIND = "bdhs"
"""The role of the answer that a model wrote while most of the picture was hidden from it."""


@dataclass(frozen=True)
class BDHS(Objective):
    """The loss of bias-driven hallucination sampling (arXiv 2407.02477), from the paper's text alone.

    With h the log-ratio policy / reference and b the answer of role `bdhs`, loss = - gamma log sigmoid(beta *
    (h_chosen - h_rejected)) - (1 - gamma) log sigmoid(beta * (h_chosen - h_b)). All three answers are scored
    under the clean picture: hiding it is for writing b. A row gives it as its field `bdhs`; a row without
    `rejected` has b for both and so gamma 0. With `gamma` 0 rejected answers are not scored at all.

    Online, section `online.blind` has the policy as it stands write b anew in every round, of the chosen
    answer of every pair, whichever the data has. Where none can be written, as to a prompt without a picture,
    the pair trains as by DPO, and is counted. With `online.offline` pairs of the data train beside sampled
    ones (the paper's Mixed-DPO), or with 1 alone, where nothing is judged. In rounds without `online.blind`
    pairs of the data keep their b, and sampled ones, which have none, train as by DPO.
    """

    beta: float = 0.1  # strength of the pull to the reference, as in dpo
    gamma: float = 0.5  # weight of the pair; 1 - gamma is that of the answer of role bdhs

    needs = frozenset({"ratio", "units"})

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(0 <= self.gamma < 1, f"gamma: must lie in [0, 1), got {self.gamma}; for 1 use dpo")

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """Both sources score what has a weight."""
        scored = ("chosen", "rejected", BLIND) if self.gamma else ("chosen", BLIND)
        return {"policy": scored, "reference": scored}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree."""
        policy, reference = scores["policy"], scores["reference"]
        h = {role: policy[role].ratio(reference[role]) for role in self.roles["policy"]}
        blind_margin = self.beta * (h["chosen"] - h[BLIND])
        terms = {"loss/bdhs": -(1 - self.gamma) * F.logsigmoid(blind_margin)}
        if self.gamma:
            margin = self.beta * (h["chosen"] - h["rejected"])
            terms["loss/pair"] = -self.gamma * F.logsigmoid(margin)
        other = h["rejected"] if self.gamma else h[BLIND]
        metrics = {
            **pair_metrics(Ratios(h["chosen"], other), self.beta),
            f"reward/{BLIND}": self.beta * h[BLIND].detach(),
            "bdhs_margin": blind_margin.detach(),
            "bdhs_accuracy": (blind_margin.detach() > 0).to(blind_margin.dtype),
            **{name: term.detach() for name, term in terms.items()},
        }
        return Outcome(sum(terms.values(), start=blind_margin.new_zeros(())), metrics, state)
