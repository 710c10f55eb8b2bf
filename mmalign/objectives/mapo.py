"""Margin-aware Preference Optimization for diffusion models: no reference model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmalign.objectives._pairs import PAIR, require
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class MaPO(Objective):
    """MaPO (arXiv 2406.06424) on raw prediction errors e, which must share timestep and noise in a pair.

    loss = e_chosen - beta * log sigmoid(T * (s(e_chosen) - s(e_rejected))), s(e) = k e / (exp(k e) - 1), a
    bounded transform that falls from 1 at e = 0. T = `timesteps` is the number of training timesteps. The
    constants assume errors averaged over all latent elements, so text and other exact models are refused.
    """

    beta: float = 0.1  # weight of the pair's part beside denoising the winner
    k: float = 0.5  # how fast an error lowers its score
    timesteps: int = 1000  # number of training timesteps, which scales the margin

    roles = {"policy": PAIR}
    needs = frozenset({"error"})

    def __post_init__(self) -> None:
        for name in ("beta", "k", "timesteps"):
            value = getattr(self, name)
            require(value > 0, f"{name}: must be above 0, got {value}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; e_chosen + beta ln 2 where both errors agree."""
        chosen = scores["policy"]["chosen"].mean_error()
        rejected = scores["policy"]["rejected"].mean_error()
        z = self.timesteps * (self._score(chosen) - self._score(rejected))
        preference = -self.beta * F.logsigmoid(z)
        metrics = {
            "reward/margin": z.detach(),
            "accuracy": (z > 0).to(z.dtype),
            "implicit_acc": 0.5 * (1.0 + torch.sign(z.detach())),
            "loss/preference": preference.detach(),
        }
        return Outcome(chosen + preference, metrics, state)

    def _score(self, error: Tensor) -> Tensor:
        """s(e) as x e^-x / (1 - e^-x), whose gradient stays finite where e^x overflows, with its series
        1 - x / 2 + x^2 / 12 where x = k e is too small to divide by."""
        x = self.k * error
        small = x.abs() < 1e-4
        safe = torch.where(small, torch.ones_like(x), x)
        return torch.where(small, 1 - x / 2 + x * x / 12, safe * torch.exp(-safe) / -torch.expm1(-safe))
