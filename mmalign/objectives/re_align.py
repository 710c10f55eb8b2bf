"""Re-Align's rDPO: a pair, and the chosen answer under its own picture against that under a similar one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR, Ratios, pair_metrics, require
from mmalign.objectives._units import refuse_other_cut
from mmalign.types import AllMean, LogProbs, Objective, Outcome, Scores, State

RETRIEVED = "chosen_retrieved"
"""The role of the chosen answer under the retrieved picture, which the data give."""


@dataclass(frozen=True)
class ReAlign(Objective):
    """The loss of Re-Align (arXiv 2502.13146), there called rDPO, for models that read pictures in the prompt
    and rows that give a similar picture beside their own: role `chosen_retrieved`, field `retrieved_images`.

    With h the log-ratio policy / reference and r the chosen answer under the retrieved picture, loss =
    - log sigmoid(beta * (h_chosen - h_rejected)) - image_weight log sigmoid(beta * (h_chosen - h_r)). There
    is no anchor, and no term is detached. The authors' code has a supervised term besides: a sum with `sft`.

    `variant: top_competitor` is what the released code scores in place of the rejected answer and of the
    answer under the retrieved picture: at each place the token that the scoring model itself finds likeliest,
    or the second where that is the answer's own. Policy and reference then score tokens of their own.
    """

    beta: float = 0.1  # strength of the pull to the reference, as in dpo
    image_weight: float = 1.0  # weight of the own picture against the retrieved one
    # score the answers as they are, or the likeliest other tokens, as released
    variant: Literal["paper", "top_competitor"] = "paper"

    roles = {"policy": (*PAIR, RETRIEVED), "reference": (*PAIR, RETRIEVED)}

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(self.image_weight > 0, f"image_weight: above 0, got {self.image_weight}; without it use dpo")

    @property
    def needs(self) -> frozenset[str]:
        """Competitors are looked up in whole distributions."""
        plain = frozenset({"ratio", "units"})
        return plain if self.variant == "paper" else plain | {"tokens", "distribution"}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 per unit of weight where policy and reference agree."""
        policy, reference = scores["policy"], scores["reference"]
        refuse_other_cut(policy["chosen"], policy[RETRIEVED], "objective re_align: retrieved_images", "")
        change = competing if self.variant == "top_competitor" else _unchanged
        h = Ratios(
            policy["chosen"].ratio(reference["chosen"]),
            change(policy["rejected"]).ratio(change(reference["rejected"])),
        )
        retrieved = change(policy[RETRIEVED]).ratio(change(reference[RETRIEVED]))
        image_margin = self.beta * (h.chosen - retrieved)
        terms = {
            "loss/pair": -F.logsigmoid(self.beta * h.margin),
            "loss/image": -self.image_weight * F.logsigmoid(image_margin),
        }
        metrics = {
            **pair_metrics(h, self.beta),
            f"reward/{RETRIEVED}": self.beta * retrieved.detach(),
            "image_margin": image_margin.detach(),
            "image_accuracy": (image_margin.detach() > 0).to(h.chosen.dtype),
            **{name: term.detach() for name, term in terms.items()},
        }
        return Outcome(terms["loss/pair"] + terms["loss/image"], metrics, state)


def competing(side: LogProbs) -> LogProbs:
    """The same places with the likeliest token that is not the answer's own."""
    if side.distribution is None or side.ids is None:
        raise ValueError("top_competitor: these scores carry no distributions or no ids")
    first, second = side.distribution.topk(2)[1].unbind(-1)
    own = side.ids.to(first.device, non_blocking=True)
    return replace(side, values=side.distribution.gather(torch.where(first == own, second, first)))


def _unchanged(side: LogProbs) -> LogProbs:
    return side
