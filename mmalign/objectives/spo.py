"""SPO: two next steps from the same noisy picture, and the one a step-aware judge prefers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, require
from mmalign.objectives._units import mean_where, share_where, step_ratios, unit_labels
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class SPO(Objective):
    """Step-by-step preference optimisation (arXiv 2406.04314), by its authors' training code, on paths that
    branch: at every step both sides start from one noisy picture.

    loss = mean over the kept steps of -log sigmoid(beta * (log rho_better - log rho_worse)), rho the ratio of
    the policy's to the reference's density of the sampled step, held to [1 - clip, 1 + clip]; densities are
    means over latent elements. The row's label `step_margins` has one number per step: what a judge of noisy
    pictures gives the chosen side minus what it gives the rejected side. Its sign says which is the better
    one at this step; a step is kept if the judge's two-way softmax differs by more than `threshold`, that
    is tanh(|margin| / 2) > threshold (0.3 for SD1.5, 0.4 for SDXL). A path without a kept step has loss 0. It
    is not the sequence method of that name.
    """

    beta: float = 10.0  # strength of the pull to the reference, for densities that are means over latents
    clip: float = 0.1  # how far a step's ratio of densities may move from 1
    threshold: float = 0.3  # a step trains if the judge's softmax of its two sides differs by more

    roles = PAIR_WITH_REFERENCE
    needs = frozenset({"ratio", "transition"})
    fields = ("step_margins",)

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(0 < self.clip < 1, f"clip: must lie in (0, 1), got {self.clip}")
        require(0 <= self.threshold < 1, f"threshold: must lie in [0, 1), got {self.threshold}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree and a step is kept."""
        chosen, chosen_held = step_ratios(scores, "chosen", self.clip)
        rejected, rejected_held = step_ratios(scores, "rejected", self.clip)
        steps = scores["policy"]["chosen"].mask & scores["policy"]["rejected"].mask
        judged = unit_labels(labels, "step_margins", scores["policy"]["chosen"].mask)
        kept = steps & (torch.tanh(judged.abs() / 2) > self.threshold)
        z = self.beta * torch.sign(judged).to(chosen.dtype) * (chosen - rejected)
        still = z.detach()
        metrics = {
            "reward/margin": mean_where(still, kept),
            "accuracy": share_where(still > 0, kept),
            "implicit_acc": share_where(0.5 * (1.0 + torch.sign(still)), kept),
            "clip_fraction": 0.5 * (chosen_held + rejected_held),
            "steps_kept": share_where(kept, steps),
        }
        return Outcome(mean_where(-F.logsigmoid(z), kept), metrics, state)
