"""V-DPO: the policy's likelihood is guided by the picture before it is compared with the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from mmalign.objectives._pairs import PAIR, Ratios, pair_metrics, require
from mmalign.objectives._units import refuse_other_cut
from mmalign.types import AllMean, LogProbs, Objective, Outcome, Scores, State, View

_MEAN_OF = 8  # other rows of a mean picture


@dataclass(frozen=True)
class VDPO(Objective):
    """V-DPO (arXiv 2411.02712), for models that read pictures or clips in the prompt.

    loss = -log sigmoid(beta * (h_chosen - h_rejected)), where h compares the guided log-likelihood of the
    policy, per token g log p(y|v) - (g - 1) sg(log p(y|v0)), with the plain one of the reference: what the
    picture v explains better than the empty picture v0 counts more. sg stops the gradient. `guidance` g is 1
    for plain DPO, which this then is exactly, and 1.5 is our default: no published value is known to us, and
    at the 0 of a released script nothing would train. `unguided`: who scores under v0, the policy as it is at
    every step or the reference. `use_logits` mixes logits in place of log-probabilities and normalises again.
    `picture`: v0, gray (near the zeros of a normalised picture), black, another row's picture, or the mean of
    the pictures of `mean_of` other rows (8 by default, which is ours), each stretched to the row's own size.
    `form` ipo is (margin - 1 / (2 beta))^2 in place of the log-sigmoid; `label_smoothing` e is the assumed
    share of flipped labels, as in dpo. `visual_weight` adds -log sigmoid(beta * (r(v) - sg(r(v0)))) of the
    chosen answer, with r the plain log-ratio policy / reference.
    """

    beta: float = 0.1  # strength of the pull to the reference, as in dpo
    guidance: float = 1.5  # how much counts what the picture explains; 1 is plain dpo
    unguided: Literal["policy", "reference"] = "policy"  # who scores under the empty picture
    use_logits: bool = False  # mix logits in place of log-probabilities, and normalise again
    # the empty picture: gray, black, another row's, or the mean of several rows'
    picture: Literal["gray", "black", "other_image", "mean_image"] = "gray"
    mean_of: int | None = None  # how many other rows a mean_image is made of; null: 8
    # weight of the chosen answer's reward under the picture above that under the empty one
    visual_weight: float = 0.0
    form: Literal["sigmoid", "ipo"] = "sigmoid"  # log-sigmoid of the margin, or its square as in ipo
    label_smoothing: float = 0.0  # assumed share of flipped labels

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(self.guidance > 0, f"guidance: must be above 0, got {self.guidance}")
        require(self.visual_weight >= 0, f"visual_weight: must be 0 or more, got {self.visual_weight}")
        require(0 <= self.label_smoothing < 0.5, f"label_smoothing: [0, 0.5), got {self.label_smoothing}")
        smooth = self.form == "sigmoid" or not self.label_smoothing
        require(smooth, "label_smoothing: only read with form sigmoid; leave one of them out")
        if self.mean_of is not None:
            require(self.mean_of > 1, f"mean_of: must be 2 or more, got {self.mean_of}; see other_image")
            averages = self.picture == "mean_image"
            require(averages, "mean_of: only read with picture mean_image; leave one of them out")
        mixes = self.guidance != 1
        require(mixes or not self.use_logits, "use_logits: guidance 1 mixes nothing; leave one of them out")

    def _view(self, role: str) -> str:
        return f"{role}_{self.picture}"

    @property
    def needs(self) -> frozenset[str]:
        """Mixing logits takes whole distributions, and the ids to look up in them; under another row's
        picture, ids tell whether an answer was cut alike."""
        found = {"ratio", "units"}
        found |= {"tokens", "distribution"} if self.use_logits else set()
        return frozenset(found | ({"tokens"} if self.picture == "other_image" else set()))

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """The pair by both sources; under the empty picture both sides by whoever is `unguided`, and the
        chosen one by both for the visual term."""
        both = tuple(self._view(role) for role in PAIR) if self.guidance != 1 else ()
        visual = (self._view("chosen"),) if self.visual_weight else ()
        seen = {"policy": visual, "reference": visual}
        seen[self.unguided] = tuple(dict.fromkeys((*both, *visual)))
        return {source: (*PAIR, *views) for source, views in seen.items()}

    @property
    def detached(self) -> tuple[str, ...]:
        """Nothing is learned under the empty picture."""
        return tuple(role for role in self.roles["policy"] if role not in PAIR)

    @property
    def views(self) -> Mapping[str, View]:
        """Both sides with their prompts' pictures and clips emptied."""
        scored = {role for roles in self.roles.values() for role in roles}
        others = (self.mean_of or _MEAN_OF) if self.picture == "mean_image" else 1
        return {self._view(r): View(r, self.picture, others) for r in PAIR if self._view(r) in scored}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; with guidance 1 ln 2 per unit of weight where policy and reference agree, and
        1 / (4 beta^2) of form ipo."""
        guided = {role: self._guided(scores, role) for role in PAIR}
        h = Ratios(*(guided[role].ratio(scores["reference"][role]) for role in PAIR))
        loss = self._loss(h.margin)
        metrics = pair_metrics(h, self.beta)
        if self.guidance != 1:
            for role in PAIR:
                empty = scores[self.unguided][self._view(role)]
                metrics[f"picture_gain/{role}"] = scores["policy"][role].ratio(empty).detach()
        if self.visual_weight:
            visual = self.beta * self._visual_margin(scores)
            metrics["loss/pair"], metrics["visual_margin"] = loss.detach(), visual.detach()
            metrics["loss/visual"] = -self.visual_weight * F.logsigmoid(visual.detach())
            loss = loss - self.visual_weight * F.logsigmoid(visual)
        return Outcome(loss, metrics, state)

    def _loss(self, margin: Tensor) -> Tensor:
        if self.form == "ipo":
            return (margin - 1 / (2 * self.beta)) ** 2
        z, e = self.beta * margin, self.label_smoothing
        return -(1 - e) * F.logsigmoid(z) - e * F.logsigmoid(-z)

    def _guided(self, scores: Scores, role: str) -> LogProbs:
        """The policy's scores of one role, guided."""
        ours = scores["policy"][role]
        if self.guidance == 1:
            return ours
        empty = scores[self.unguided][self._view(role)]
        if self.picture == "other_image":
            refuse_other_cut(ours, empty, "objective.picture: other_image")
        if not self.use_logits:
            gain = ours.unit_ratio(empty.detached())
            return replace(ours, values=ours.values + (self.guidance - 1) * gain)
        if ours.distribution is None or empty.distribution is None or ours.ids is None:
            raise ValueError("use_logits: these scores carry no distributions or no ids")
        ids = ours.ids.to(ours.values.device, non_blocking=True)
        mixed = ours.distribution.guided(ids, empty.distribution, self.guidance)
        return replace(ours, values=mixed)

    def _visual_margin(self, scores: Scores) -> Tensor:
        policy, reference = scores["policy"], scores["reference"]
        view = self._view("chosen")
        empty = policy[view].detached().ratio(reference[view])
        return policy["chosen"].ratio(reference["chosen"]) - empty
