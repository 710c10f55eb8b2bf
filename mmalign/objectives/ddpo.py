"""DDPO: policy gradients over the steps of a sampling path, for rewards that give none; a comparator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmalign.objectives._pairs import require
from mmalign.objectives._units import mean_where, share_where, steps_above, unit_ratios
from mmalign.types import AllMean, Objective, Outcome, Scores, State

_LARGEST = 20.0  # of a log-ratio: e^20 stands for any ratio beyond, and float32 does not overflow


@dataclass(frozen=True)
class DDPO(Objective):
    """DDPO with importance sampling (arXiv 2305.13301), by its authors' training code, on stored paths.

    loss = mean over steps of max(-A rho, -A clamp(rho, 1 - clip, 1 + clip)), A the row's label `advantage`
    (the reward, normalised over the pictures of its prompt or of the round) cut at `advantage_clip`, rho the
    ratio of the policy's density of the sampled step to that of the model which sampled it. That model is
    the source "reference": either the weights that training starts from (`copy`, `lora_off`) or those of a
    folder (`path`). At the first step all ratios are 1 and the loss is the plain policy gradient. Densities
    are means over latent elements, for which the tiny `clip` is meant. Nothing holds the policy near the
    first model: stop early. It is not the dense DPO of that name on segments of text.

    Steps that begin at or below the share `above` of the noise schedule do not train (0, as published: all
    do). The last steps have sharp densities: of ten, the one from level 101 to 1 has 95 % of the mean squared
    gradient of a path, nearly all of it chance.
    """

    clip: float = 1e-4  # how far a step's ratio of densities may move from 1
    advantage_clip: float = 5.0  # largest size of an advantage
    # share of the noise schedule at or below which a step's beginning leaves it out; 0: all train
    above: float = 0.0

    roles = {"policy": ("completion",), "reference": ("completion",)}
    needs = frozenset({"ratio", "transition"})
    fields = ("advantage",)

    def __post_init__(self) -> None:
        require(0 < self.clip < 1, f"clip: must lie in (0, 1), got {self.clip}")
        require(self.advantage_clip > 0, f"advantage_clip: must be above 0, got {self.advantage_clip}")
        require(0 <= self.above < 1, f"above: must lie in [0, 1), got {self.above}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; minus the advantage where the policy is still the one that sampled."""
        steps = steps_above(scores, "completion", self.above)
        change = unit_ratios(scores, "completion")
        ratio = torch.exp(change.clamp(max=_LARGEST))
        advantage = labels["advantage"].clamp(-self.advantage_clip, self.advantage_clip)
        gain = advantage.to(ratio.dtype)[:, None]
        plain, held = -gain * ratio, -gain * ratio.clamp(1 - self.clip, 1 + self.clip)
        loss = mean_where(torch.maximum(plain, held), steps)
        metrics = {
            "advantage": advantage.to(ratio.dtype),
            "approx_kl": mean_where(0.5 * change.detach().square(), steps),
            "clip_fraction": share_where((ratio - 1).abs() > self.clip, steps),
        }
        return Outcome(loss, metrics, state)
