"""Noise levels of a variance-preserving diffusion model: noising, targets, weights and errors.

Letters: T trained noise levels, B noised latents (a row and one of its draws). `abar` is the product of
`1 - beta` up to a level, as in DDPM (arXiv 2006.11239): x_t = sqrt(abar) x0 + sqrt(1 - abar) eps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["none", "min_snr"]


@dataclass(frozen=True)
class TimestepRange:
    """The part of the schedule that timesteps are drawn from, uniformly, as shares: 0 clean, 1 pure noise."""

    min: float = 0.0
    max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.min < self.max <= 1:
            raise ValueError(f"timesteps: needs 0 <= min < max <= 1, got min {self.min}, max {self.max}")

    def bounds(self, num_timesteps: int) -> tuple[int, int]:
        """First and one past the last integer timestep; at least one of them."""
        low = min(round(self.min * num_timesteps), num_timesteps - 1)
        return low, max(round(self.max * num_timesteps), low + 1)


@dataclass(frozen=True)
class _Prediction:
    """What a network that predicts one quantity is trained on, and its min-SNR divisor."""

    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (x0, eps, signal, noise) -> target
    snr_offset: float  # w = min(SNR, gamma) / (SNR + offset)


PREDICTIONS = {
    "epsilon": _Prediction(lambda x0, eps, signal, noise: eps, 0.0),
    "v_prediction": _Prediction(lambda x0, eps, signal, noise: signal * eps - noise * x0, 1.0),
}


@dataclass(frozen=True)
class Schedule:
    """The T noise levels of a model: `signal` = sqrt(abar), `noise` = sqrt(1 - abar), both [T] float32."""

    signal: Tensor
    noise: Tensor
    prediction: str  # a key of PREDICTIONS

    @classmethod
    def of(cls, alphas_cumprod: Tensor, prediction: str, device: torch.device) -> Schedule:
        """From abar [T] in float32, as upstream schedulers keep it."""
        abar = alphas_cumprod.to(device=device, dtype=torch.float32)
        return cls(abar**0.5, (1 - abar) ** 0.5, prediction)

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.signal)

    def snr(self, timestep: Tensor) -> Tensor:
        """Signal-to-noise ratio abar / (1 - abar) of integer timesteps [B] -> [B]."""
        return (self.signal[timestep] / self.noise[timestep]) ** 2

    def noised(self, x0: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
        """Noised latents x_t [B, ...] from clean latents and noise of the same shape, and timesteps [B]."""
        return self._at(self.signal, timestep, x0) * x0 + self._at(self.noise, timestep, x0) * eps

    def target(self, x0: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
        """What the network should answer for `noised(...)`: the noise, or the velocity (arXiv 2202.00512)."""
        signal, noise = self._at(self.signal, timestep, x0), self._at(self.noise, timestep, x0)
        return PREDICTIONS[self.prediction].target(x0, eps, signal, noise)

    def weight(self, timestep: Tensor, weighting: Weighting, gamma: float) -> Tensor:
        """w(t) [B]: 1, or min-SNR (arXiv 2303.09556): min(SNR, gamma) over SNR (epsilon) or SNR + 1 (v)."""
        if weighting == "none":
            return torch.ones_like(self.signal[timestep])
        return min_snr_weight(self.snr(timestep), self.prediction, gamma)

    @staticmethod
    def _at(table: Tensor, timestep: Tensor, like: Tensor) -> Tensor:
        return table[timestep].reshape(-1, *[1] * (like.ndim - 1))


def min_snr_weight(snr: Tensor, prediction: str, gamma: float) -> Tensor:
    """min(SNR, gamma) / (SNR + offset), [B]; at SNR 0 (a schedule that ends in pure noise) its limit."""
    offset = PREDICTIONS[prediction].snr_offset
    if offset == 0:
        return (gamma / snr).clamp(max=1.0)  # the same ratio, finite where SNR is 0
    return snr.clamp(max=gamma) / (snr + offset)


def mean_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error averaged over all dimensions but the first, in float32 whatever the inputs are, [B].

    Half precision would round errors of order 0.1 by more than the differences between two models.
    """
    return (prediction.float() - target.float()).pow(2).flatten(1).mean(1)


def draw_one(
    seed: int,
    shape: tuple[int, ...],
    timesteps: tuple[int, int],
    num_draws: int,
    caption_dropout: float,
    noise_offset: float,
) -> dict[str, Tensor]:
    """Everything random about scoring one sample with latents of `shape` (channels first), from its seed.

    All of it is always drawn, in this order, so that one setting leaves the draws of the others as they were.
    """
    stream = torch.Generator().manual_seed(seed)
    drop = torch.rand((), generator=stream) < caption_dropout
    latent_noise = torch.randn(shape, generator=stream)
    timestep = torch.randint(*timesteps, (num_draws,), generator=stream)
    noise = torch.randn((num_draws, *shape), generator=stream)
    shift = torch.randn((num_draws, shape[0], *[1] * (len(shape) - 1)), generator=stream)
    noise = noise + noise_offset * shift
    return {"timestep": timestep, "noise": noise, "latent_noise": latent_noise, "drop": drop}
