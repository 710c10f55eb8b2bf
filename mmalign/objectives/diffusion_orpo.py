"""Diffusion-ORPO: denoising of the chosen side and a bare margin of errors; experimental, prefer mapo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class DiffusionORPO(Objective):
    """The odds-ratio script among the research projects of diffusers, named after ORPO (arXiv 2403.07691),
    with the sign of its margin corrected. Experimental: there is no published result.

    loss = e_chosen - beta log sigmoid(e_rejected - e_chosen) on raw prediction errors e. The script has
    e_chosen - e_rejected inside, which rewards a larger error of the winner. Errors differ by hundredths, so
    the second term is nearly -beta / 2 of the difference: the whole is denoising of the winner with a faint
    push at the loser, and without a reference. MaPO is the same idea with a margin of useful size.
    """

    beta: float = 0.1  # weight of the pair's part beside denoising the winner

    roles = {"policy": PAIR}
    needs = frozenset({"error"})

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; e_chosen + beta ln 2 where both errors agree."""
        chosen = scores["policy"]["chosen"].mean_error()
        rejected = scores["policy"]["rejected"].mean_error()
        z = rejected - chosen
        preference = -self.beta * F.logsigmoid(z)
        metrics = {
            "reward/margin": z.detach(),
            "accuracy": (z > 0).to(z.dtype),
            "implicit_acc": 0.5 * (1.0 + torch.sign(z.detach())),
            "loss/preference": preference.detach(),
        }
        return Outcome(chosen + preference, metrics, state)
