"""D3PO: a preference between two sampled pictures, learned at every step of their sampling paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, require
from mmalign.objectives._units import mean_where, share_where, step_ratios, steps_above
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class D3PO(Objective):
    """D3PO (arXiv 2311.13231), by its authors' training code, on stored sampling paths of one prompt.

    loss = mean over steps of -log sigmoid(beta * (log rho_chosen - log rho_rejected)), rho the ratio of the
    policy's to the reference's density of the very step that was sampled, held to [1 - clip, 1 + clip]. Every
    step inherits the judgement of the finished picture. Densities are means over latent elements, not sums,
    and beta and clip are meant for means. With the defaults the loss cannot leave [0.683, 0.703]: watch
    `reward/margin` and `clip_fraction`. Ties are left out beforehand. The authors take an optimizer step per
    denoising step; here all steps of a pair make one loss. Steps that begin at or below the share `above` of
    the noise schedule do not train (0: all do): the last ones have sharp densities, which chance moves most.
    """

    beta: float = 0.1  # strength of the pull to the reference, for densities that are means over latents
    clip: float = 0.1  # how far a step's ratio of densities may move from 1
    # share of the noise schedule at or below which a step's beginning leaves it out; 0: all train
    above: float = 0.0

    roles = PAIR_WITH_REFERENCE
    needs = frozenset({"ratio", "transition"})

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(0 < self.clip < 1, f"clip: must lie in (0, 1), got {self.clip}")
        require(0 <= self.above < 1, f"above: must lie in [0, 1), got {self.above}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree."""
        steps = steps_above(scores, "chosen", self.above) & steps_above(scores, "rejected", self.above)
        chosen, chosen_held = step_ratios(scores, "chosen", self.clip, steps)
        rejected, rejected_held = step_ratios(scores, "rejected", self.clip, steps)
        z = self.beta * (chosen - rejected)
        still = z.detach()
        metrics = {
            "reward/chosen": self.beta * mean_where(chosen.detach(), steps),
            "reward/rejected": self.beta * mean_where(rejected.detach(), steps),
            "reward/margin": mean_where(still, steps),
            "accuracy": share_where(still > 0, steps),
            "implicit_acc": share_where(0.5 * (1.0 + torch.sign(still)), steps),
            "clip_fraction": 0.5 * (chosen_held + rejected_held),
        }
        return Outcome(mean_where(-F.logsigmoid(z), steps), metrics, state)
