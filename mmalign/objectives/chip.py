"""CHiP: a pair weighed by segments, a spoilt picture, and the drift of whole distributions in one margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from mmalign.objectives._edits import edit_weights
from mmalign.objectives._pairs import Ratios, pair_metrics, require
from mmalign.objectives._spoilt import SpoiltPicture
from mmalign.types import AllMean, LogProbs, Outcome, Scores, State


@dataclass(frozen=True)
class CHiP(SpoiltPicture):
    """CHiP (arXiv 2501.16629), for models that read pictures or clips in the prompt and pairs whose chosen
    side is the rejected one with its mistakes corrected.

    h is the log-ratio policy / reference with every token that the correction replaced counted `gamma` times
    and no division (see transform `segment_weights`); v is the chosen answer under the spoilt picture; KL is
    the divergence KL(reference || policy) of next-token distributions, summed over an answer's tokens; sg
    stops the gradient.
    `combine: joint` (the released code's): loss = - log sigmoid(beta * z), z = (h_chosen - h_rejected) +
    (h_chosen - h_v) - alpha * (KL_rejected - sg(KL_chosen)).
    `combine: sum`: the three parts of z each in a sigmoid of its own, added up. The paper writes a sum of
    losses, whose weights are not known to us; this one is ours.

    `gamma` is 4 for LLaVA-1.6 in the released code, 2 in its other tree. `corruption`: noise is put on pixels
    in [0, 1] as for `povid`, the same step of the same schedule; the released code has it on normalised ones,
    where it is weaker by the processor's deviations and leads to the mean colour.
    Both sources need whole distributions, so the reference must be live.
    """

    beta: float = 0.1  # strength of the pull to the reference, as in dpo
    alpha: float = 0.1  # weight of the divergence over whole distributions of tokens
    gamma: float = 4.0  # how often a token counts that the correction replaced
    combine: Literal["joint", "sum"] = "joint"  # three parts in one sigmoid, as released, or in one each
    corruption: Literal["noise", "black", "crop", "other_image"] = "noise"  # how the picture is spoilt

    needs = frozenset({"ratio", "units", "tokens", "distribution"})

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(self.alpha > 0, f"alpha: must be above 0, got {self.alpha}")
        require(self.gamma > 0, f"gamma: must be above 0, got {self.gamma}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree, 3 ln 2 with `sum`."""
        self.refuse_other_cut(scores)
        policy, reference = scores["policy"], scores["reference"]
        weights = edit_weights({role: policy[role] for role in self.roles["policy"]}, self.gamma)
        weighted = {role: _weighted_ratio(policy[role], reference[role], w) for role, w in weights.items()}
        h = Ratios(weighted["chosen"], weighted["rejected"])
        image = h.chosen - weighted[self.view]
        drift = {role: _divergence(policy[role], reference[role]) for role in ("chosen", "rejected")}
        kept = -self.alpha * (drift["rejected"] - drift["chosen"].detach())
        parts = [self.beta * part for part in (h.margin, image, kept)]
        if self.combine == "joint":
            loss = -F.logsigmoid(parts[0] + parts[1] + parts[2])
        else:
            loss = -(F.logsigmoid(parts[0]) + F.logsigmoid(parts[1]) + F.logsigmoid(parts[2]))
        metrics = {
            **pair_metrics(h, self.beta),
            f"reward/{self.view}": self.beta * weighted[self.view].detach(),
            "image_margin": parts[1].detach(),
            "image_accuracy": (image.detach() > 0).to(image.dtype),
            **{f"divergence/{role}": value.detach() for role, value in drift.items()},
        }
        return Outcome(loss, metrics, state)


def _weighted_ratio(ours: LogProbs, theirs: LogProbs, weights: Tensor) -> Tensor:
    """Log-ratio of every answer with its tokens weighted, [S]."""
    return replace(ours, values=weights * ours.unit_ratio(theirs)).total()


def _divergence(ours: LogProbs, theirs: LogProbs) -> Tensor:
    """KL(theirs || ours) summed over every answer's tokens, [S]."""
    if ours.distribution is None or theirs.distribution is None:
        raise ValueError("chip: these scores carry no distributions")
    return replace(ours, values=ours.distribution.kl_from(theirs.distribution)).total()
