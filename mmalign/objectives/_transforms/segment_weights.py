"""Segment weights: the tokens that a correction replaced count more than those it left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmalign.objectives._edits import edit_weights
from mmalign.types import AllMean, Changed, LogProbs, Scores, Transform


@dataclass(frozen=True)
class SegmentWeights(Transform):
    """The scores of RLHF-V's "dense DPO" (arXiv 2312.00849), for pairs whose chosen side is the rejected one
    with its mistakes corrected.

    A token's log-probability counts `gamma` times where its answer was changed, once elsewhere, in every
    source alike. `normalise` divides by the sum of the weights, as the paper does: a score is then a mean,
    and margins are small. Released code does not by default, and has gamma 3. The paper's gamma and beta (5
    and 0.5, as far as known) are not verified. An objective that divides by length (`ipo` by default) would
    divide twice: give it sums.

    Changed is what stands between two stretches of three or more equal tokens (at the beginning and the end
    of any number, so that the token which ends both answers joins nothing), where both answers have
    something there; what only one of them has keeps weight 1. From 200 tokens on, very frequent tokens start
    no match, as in the released comparison; unlike there, padding takes no part in it. The picture-side roles
    of a pair (`chosen_crop`) have the weights of the side they are made of.
    """

    gamma: float = 5.0  # how often a changed token counts
    normalise: bool = True  # divide by the sum of the weights, so that scores are means

    needs = frozenset({"units", "tokens"})
    roles = ("chosen", "rejected")

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise ValueError(f"gamma: must be above 0, got {self.gamma}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], all_mean: AllMean) -> Changed:
        """Scores with weighted values; metric `changed_share`, of the chosen side's tokens [S]."""
        policy = scores["policy"]
        sides = {role: side for roles in scores.values() for role, side in roles.items()} | dict(policy)
        weights = edit_weights(sides, self.gamma)
        changed = {
            source: {role: self._weighted(side, weights[role]) for role, side in roles.items()}
            for source, roles in scores.items()
        }
        marked = (weights["chosen"] != 1) & policy["chosen"].mask
        share = marked.sum(-1).to(policy["chosen"].values.dtype) / policy["chosen"].length
        return Changed(changed, {"changed_share": share})

    def _weighted(self, side: LogProbs, weights: Tensor) -> LogProbs:
        kept = torch.where(side.mask, weights[:, : side.mask.shape[1]], 0.0)
        if self.normalise:
            kept = kept / kept.sum(-1, keepdim=True)
        # what padding holds stays out: it may be anything
        return replace(side, values=torch.where(side.mask, kept * side.values, side.values))
