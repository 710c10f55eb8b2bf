"""Supervised fine-tuning on the chosen side: the baseline, a first stage, or an anchor in a weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class SFT(Objective):
    """Negative log-likelihood of the chosen response; on a diffusion model its weighted denoising error.

    `role`: the response that is learned, where it is not the chosen one but a critique of an answer.
    `reduction`: `mean` per response, `sum` over its tokens, or `token_mean`, the mean over all tokens of the
    optimizer step (long responses then count more). A surrogate has one unit, so all three agree there.
    """

    # mean over a response's tokens, their sum, or the mean over all tokens of a step
    reduction: Literal["mean", "sum", "token_mean"] = "mean"
    role: Literal["chosen", "chosen_critique", "rejected_critique"] = "chosen"  # which response is learned

    needs = frozenset[str]()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """One response."""
        return {"policy": (self.role,)}

    @property
    def batch_coupled(self) -> bool:
        """A token mean is normalised by the whole step."""
        return self.reduction == "token_mean"

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]."""
        chosen = scores["policy"][self.role]
        if self.reduction == "token_mean":
            loss = chosen.nll("sum") / all_mean(chosen.length)
        else:
            loss = chosen.nll(self.reduction)
        return Outcome(loss, {"nll": loss.detach()}, state)
