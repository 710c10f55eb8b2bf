"""mDPO: a pair, the same answer under a spoilt picture, and an anchor for the answer itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F

from mmalign.objectives._pairs import pair_metrics, ratios, require
from mmalign.objectives._spoilt import SpoiltPicture
from mmalign.types import AllMean, Outcome, Scores, State

Corruption = Literal[
    "crop", "noise", "black", "other_image", "reversed_frames", "shuffled_frames", "dropped_frames"
]


@dataclass(frozen=True)
class MDPO(SpoiltPicture):
    """mDPO (arXiv 2406.11839), for models that read pictures or clips in the prompt.

    With h the log-ratio policy / reference and v the chosen answer under the spoilt picture,
    loss = - pair_weight log sigmoid(beta * (h_chosen - h_rejected)) - image_weight log sigmoid(beta *
    (h_chosen - h_v)) - anchor_weight log sigmoid(beta * h_chosen - delta). The first term alone can be won by
    knowing language; the second can not. `corruption`: a crop of 1 to 20 % blown up (the paper's), noise,
    black, another row's picture; on clips the same for every frame, or frames reversed, shuffled or half of
    them dropped. Policy and reference see the very same spoilt picture, and no term is detached.
    """

    beta: float = 0.1  # strength of the pull to the reference, as in dpo
    pair_weight: float = 1.0  # weight of chosen against rejected
    image_weight: float = 1.0  # weight of the right picture against the spoilt one
    anchor_weight: float = 1.0  # weight of holding the chosen answer's reward above delta
    delta: float = 0.0  # reward that the chosen answer should keep above
    # how the picture is spoilt; crop is the paper's, the three on frames are for clips
    corruption: Corruption = "crop"

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        for name in ("pair_weight", "anchor_weight"):
            value = getattr(self, name)
            require(value >= 0, f"{name}: must be 0 or more, got {value}")
        require(self.image_weight > 0, f"image_weight: above 0, got {self.image_weight}; without it use dpo")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 per unit of weight where policy and reference agree and delta is 0."""
        self.refuse_other_cut(scores)
        h = ratios(scores)
        spoilt = scores["policy"][self.view].ratio(scores["reference"][self.view])
        image_margin = self.beta * (h.chosen - spoilt)
        anchor = self.beta * h.chosen - self.delta
        terms = {
            "loss/pair": -self.pair_weight * F.logsigmoid(self.beta * h.margin),
            "loss/image": -self.image_weight * F.logsigmoid(image_margin),
            "loss/anchor": -self.anchor_weight * F.logsigmoid(anchor),
        }
        metrics = {
            **pair_metrics(h, self.beta),
            f"reward/{self.view}": self.beta * spoilt.detach(),
            "image_margin": image_margin.detach(),
            "image_accuracy": (image_margin.detach() > 0).to(h.chosen.dtype),
            "anchor_accuracy": (anchor.detach() > 0).to(h.chosen.dtype),
            **{name: term.detach() for name, term in terms.items()},
        }
        return Outcome(sum(terms.values(), start=h.chosen.new_zeros(())), metrics, state)
