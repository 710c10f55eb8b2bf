"""POVID: a pair, and what the model itself would say of a noisy picture as a second rejected answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from mmalign.likelihoods import fit
from mmalign.objectives._pairs import PAIR, Ratios, pair_metrics, ratios, require
from mmalign.objectives._units import refuse_other_cut
from mmalign.types import AllMean, Distribution, LogProbs, Objective, Outcome, Scores, State, View


@dataclass(frozen=True)
class POVID(Objective):
    """The second stage of POVID (arXiv 2402.11411), for models that read pictures or clips in the prompt; its
    first is `dpo` on pairs whose rejected side had errors put into it.

    Where the chosen answer is read token by token under a noisy picture, n is the token that the policy finds
    likeliest at each place: indices without a gradient. With h the log-ratios policy / reference, h_n that of
    n at those places,
    `form: average` (the released code's): loss = - mix log sigmoid(beta * (h_chosen - h_n)) - (1 - mix)
    log sigmoid(beta * (h_chosen - h_rejected)), n scored under the clean picture;
    `form: single` (the paper's): loss = - log sigmoid(beta * (h_chosen - (1 - mix) h_rejected - mix h_n)), n
    scored under the noisy picture. The paper's three weights are not known to us: ours are 1, 1 - mix, mix.

    Policy and reference score the same n. `reference_argmax: own` has the reference look up its own, as the
    released code does by its separate pass: then h_n compares different tokens. `corruption`: noise is the
    published one, of step 500 on pixels in [0, 1], but clamped: released code wraps what leaves the range.
    """

    beta: float = 0.1  # strength of the pull to the reference, as in dpo
    mix: float = 0.5  # share of the likeliest tokens under the noisy picture against the rejected answer
    form: Literal["average", "single"] = "average"  # two sigmoids averaged, as released, or one, as printed
    # score the policy's likeliest tokens by both models, or each model's own
    reference_argmax: Literal["policy", "own"] = "policy"
    corruption: Literal["noise", "crop", "black", "other_image"] = "noise"  # how the picture is spoilt

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(0 < self.mix <= 1, f"mix: must lie in (0, 1], got {self.mix}; at 0 this is dpo")

    @property
    def needs(self) -> frozenset[str]:
        """Own tokens are looked up in whole distributions; under another row's picture, ids tell whether the
        answer was cut alike."""
        found = frozenset({"ratio", "units", "distribution"})
        return found | {"tokens"} if self.corruption == "other_image" else found

    @property
    def view(self) -> str:
        """The role of the chosen answer under the noisy picture."""
        return f"chosen_{self.corruption}"

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """The policy scores pair and view, the reference the view only where it is read."""
        read = self.form == "single" or self.reference_argmax == "own"
        return {"policy": (*PAIR, self.view), "reference": (*PAIR, self.view) if read else PAIR}

    @property
    def detached(self) -> tuple[str, ...]:
        """Only `single` learns under the noisy picture."""
        return (self.view,) if self.form == "average" else ()

    @property
    def views(self) -> Mapping[str, View]:
        """The chosen answer with its prompt's pictures and clips changed."""
        return {self.view: View("chosen", self.corruption)}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree."""
        h = ratios(scores)
        own = self._own_ratio(scores)
        own_margin = self.beta * (h.chosen - own)
        metrics = {
            **pair_metrics(h, self.beta),
            "reward/own": self.beta * own.detach(),
            "own_margin": own_margin.detach(),
            "own_accuracy": (own_margin.detach() > 0).to(own.dtype),
        }
        if self.form == "single":
            against = (1 - self.mix) * h.rejected + self.mix * own
            return Outcome(-F.logsigmoid(self.beta * Ratios(h.chosen, against).margin), metrics, state)
        terms = {
            "loss/own": -self.mix * F.logsigmoid(own_margin),
            "loss/pair": -(1 - self.mix) * F.logsigmoid(self.beta * h.margin),
        }
        metrics |= {name: term.detach() for name, term in terms.items()}
        return Outcome(terms["loss/own"] + terms["loss/pair"], metrics, state)

    def _own_ratio(self, scores: Scores) -> Tensor:
        """h_n, [S]."""
        noisy = scores["policy"][self.view]
        scored = "chosen" if self.form == "average" else self.view
        ours, theirs = scores["policy"][scored], scores["reference"][scored]
        if self.corruption == "other_image":
            refuse_other_cut(scores["policy"]["chosen"], noisy, "objective.corruption: other_image")
        ids = _handle(noisy).argmax()
        other = ids
        if self.reference_argmax == "own":
            other = _handle(scores["reference"][self.view]).argmax()
        return _scored(ours, ids).ratio(_scored(theirs, other))


def _handle(side: LogProbs) -> Distribution:
    if side.distribution is None:
        raise ValueError("povid: these scores carry no distributions")
    return side.distribution


def _scored(side: LogProbs, ids: Tensor) -> LogProbs:
    """The same positions with other tokens, ids [S, K] of any padding."""
    return replace(side, values=_handle(side).gather(fit(ids, side.mask.shape[1])))
