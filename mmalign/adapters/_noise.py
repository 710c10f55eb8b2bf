"""Noise levels of diffusion and flow models: noising, targets, weights, conversions and errors.

Letters: T trained noise levels, B noised latents (a row and one of its draws). Every level has a factor a
of the clean latents and a factor s of the noise, x_t = a x0 + s eps. Diffusion (arXiv 2006.11239): a^2 is
abar, a^2 + s^2 = 1. Rectified flow (arXiv 2209.03003): a = 1 - s, s is the time. Levels ascend in noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["none", "min_snr", "sigma_sqrt", "cosmap"]
ErrorSpace = Literal["native", "epsilon", "sample", "velocity"]
_SAME = 1e-5  # two schedules' factors may differ by that much: float32 sums of the same betas
FLOW_WEIGHTINGS = ("sigma_sqrt", "cosmap")


@dataclass(frozen=True)
class TimestepRange:
    """How noise levels are drawn, as shares of the schedule: 0 is clean, 1 is pure noise.

    uniform: every level of the range alike; logit_normal: u = sigmoid(mean + std * N(0, 1)) of the way
    through the range (arXiv 2403.03206, section 3.1). `levels` names the integer levels to draw from instead,
    as a few-step model needs. `shift` replaces a flow pipeline's own: s -> shift s / (1 + (shift - 1) s).
    """

    min: float = 0.0  # lowest noise level drawn, as a share of the schedule
    max: float | None = None  # highest level drawn; null: 1, or as far as the family was trained
    # every level of the range alike, or those in its middle more often
    density: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0  # of logit_normal: above 0 draws more of the noisy levels, below 0 fewer
    std: float = 1.0  # of logit_normal: the smaller, the closer to one level
    levels: tuple[int, ...] | None = None  # the integer levels to draw from, in place of a range
    # in place of a flow pipeline's own, s -> shift s / (1 + (shift - 1) s); null: its own
    shift: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min < (1.0 if self.max is None else self.max) <= 1:
            raise ValueError(f"timesteps: needs 0 <= min < max <= 1, got min {self.min}, max {self.max}")
        if self.std <= 0:
            raise ValueError(f"timesteps.std: must be above 0, got {self.std}")
        if self.density == "uniform" and (self.mean, self.std) != (0.0, 1.0):
            raise ValueError("timesteps.mean and std: only read with density logit_normal")
        if self.shift is not None and self.shift <= 0:
            raise ValueError(f"timesteps.shift: must be above 0, got {self.shift}")
        if self.levels is not None:
            if not self.levels or min(self.levels) < 0:
                raise ValueError(f"timesteps.levels: needs levels of 0 or more, got {list(self.levels)}")
            if (self.min, self.max, self.density) != (0.0, None, "uniform"):
                raise ValueError("timesteps.levels: says all; remove min, max and density")

    def bounds(self, num_timesteps: int, noisiest: float = 1.0) -> tuple[int, int]:
        """First and one past the last integer timestep; at least one of them."""
        high = noisiest if self.max is None else self.max
        low = min(round(self.min * num_timesteps), num_timesteps - 1)
        return low, max(round(high * num_timesteps), low + 1)

    def sample(self, count: int, bounds: tuple[int, int], stream: torch.Generator) -> Tensor:
        """`count` integer levels from a generator, [count] long."""
        if self.levels is not None:
            return torch.tensor(self.levels)[torch.randint(len(self.levels), (count,), generator=stream)]
        if self.density == "uniform":
            return torch.randint(*bounds, (count,), generator=stream)
        low, high = bounds
        share = torch.sigmoid(self.mean + self.std * torch.randn(count, generator=stream))
        return (low + share * (high - low)).long().clamp(max=high - 1)


@dataclass(frozen=True)
class _Prediction:
    """What a network that predicts one quantity is trained on, and its min-SNR divisor.

    `scale`: its squared error as a multiple of the velocity's at the same level, from (a, s): a network that
    predicts velocity implies noise and clean latents, whose errors are a^2 and s^2 times its own.
    """

    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (x0, eps, a, s) -> target
    snr_offset: float  # w = min(SNR, gamma) / (SNR + offset)
    scale: Callable[[Tensor, Tensor], Tensor]
    parts: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (p, x_t, a, s) -> x0, eps


def _one(a: Tensor, s: Tensor) -> Tensor:
    return torch.ones_like(a)


PREDICTIONS = {
    "epsilon": _Prediction(
        lambda x0, eps, a, s: eps, 0.0, lambda a, s: a**2, lambda p, x, a, s: ((x - s * p) / a, p)
    ),
    "v_prediction": _Prediction(
        lambda x0, eps, a, s: a * eps - s * x0,
        1.0,
        _one,
        lambda p, x, a, s: (a * x - s * p, s * x + a * p),
    ),
    "sample": _Prediction(
        lambda x0, eps, a, s: x0, 0.0, lambda a, s: s**2, lambda p, x, a, s: (p, (x - a * p) / s)
    ),
    "flow": _Prediction(lambda x0, eps, a, s: eps - x0, 0.0, _one, lambda p, x, a, s: (x - s * p, x + a * p)),
}
_SPACES = {"epsilon": "epsilon", "sample": "sample", "velocity": "v_prediction"}


@dataclass(frozen=True)
class Schedule:
    """The T noise levels of a model: factors `signal` a and `noise` s, both [T] float32."""

    signal: Tensor
    noise: Tensor
    prediction: str  # a key of PREDICTIONS

    @classmethod
    def of(cls, alphas_cumprod: Tensor, prediction: str, device: torch.device) -> Schedule:
        """From abar [T] in float32, as upstream schedulers keep it."""
        abar = alphas_cumprod.to(device=device, dtype=torch.float32)
        return cls(abar**0.5, (1 - abar) ** 0.5, prediction)

    @classmethod
    def of_flow(cls, sigmas: Tensor, device: torch.device) -> Schedule:
        """From the noise shares [T] of a rectified flow, in any order."""
        noise = sigmas.to(device=device, dtype=torch.float32).sort().values
        return cls(1 - noise, noise, "flow")

    @property
    def flow(self) -> bool:
        """True for a rectified flow."""
        return self.prediction == "flow"

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.signal)

    def difference(self, other: Schedule) -> str | None:
        """What another schedule has otherwise, in words; None if a model of one may be scored by either."""
        if other.prediction != self.prediction:
            return f"it predicts {other.prediction}, the policy {self.prediction}"
        if other.num_timesteps != self.num_timesteps:
            return f"it has {other.num_timesteps} noise levels, the policy {self.num_timesteps}"
        factors = {"signal": (other.signal, self.signal), "noise": (other.noise, self.noise)}
        for name, (theirs, ours) in factors.items():
            if not torch.allclose(theirs, ours, rtol=0.0, atol=_SAME):
                level = int((theirs - ours).abs().argmax())
                told = f"{float(theirs[level]):.4g} at level {level}, the policy's {float(ours[level]):.4g}"
                both = " (model.timesteps.shift sets both)" if self.flow else ""
                return f"its noise levels have another {name}, {told}{both}"
        return None

    def time(self, timestep: Tensor) -> Tensor:
        """What a denoiser is told of integer levels [B]: the level; of a flow T s, float32."""
        return self.noise[timestep] * self.num_timesteps if self.flow else timestep

    def share(self, timestep: Tensor) -> Tensor:
        """Integer levels [...] as shares of the schedule, 0 clean and 1 pure noise; a flow's is s."""
        return self.noise[timestep] if self.flow else timestep / self.num_timesteps

    def snr(self, timestep: Tensor) -> Tensor:
        """Signal-to-noise ratio (a / s)^2 of integer timesteps [B] -> [B]."""
        return (self.signal[timestep] / self.noise[timestep]) ** 2

    def noised(self, x0: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
        """Noised latents x_t [B, ...] from clean latents and noise of the same shape, and timesteps [B]."""
        return self._at(self.signal, timestep, x0) * x0 + self._at(self.noise, timestep, x0) * eps

    def target(self, x0: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
        """What the denoiser should predict at x_t, [B, ...]."""
        signal, noise = self._at(self.signal, timestep, x0), self._at(self.noise, timestep, x0)
        return PREDICTIONS[self.prediction].target(x0, eps, signal, noise)

    def parts(self, prediction: Tensor, x_t: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise that a prediction [B, ...] at x_t implies."""
        a, s = self._at(self.signal, timestep, x_t), self._at(self.noise, timestep, x_t)
        return PREDICTIONS[self.prediction].parts(prediction, x_t, a, s)

    def weight(
        self, timestep: Tensor, weighting: Weighting, gamma: float, space: ErrorSpace = "native"
    ) -> Tensor:
        """Loss weight of each error, [B]. min_snr: arXiv 2303.09556, eq. 6, with SNR + 1 for velocity, by
        the kind of error that `space` has, so that weight times error is the same in all; for flows (arXiv
        2403.03206, section 3.1) sigma_sqrt: s^-2, cosmap: 2 / (pi (1 - 2 s + 2 s^2))."""
        s = self.noise[timestep]
        if weighting == "min_snr":
            return min_snr_weight(self.snr(timestep), _SPACES.get(space, self.prediction), gamma)
        if weighting == "sigma_sqrt":
            return s**-2
        if weighting == "cosmap":
            return 2 / (math.pi * (1 - 2 * s + 2 * s**2))
        return torch.ones_like(s)

    def rescaling(self, timestep: Tensor, space: ErrorSpace) -> Tensor:
        """Factor [B] that turns squared errors of the native prediction into those of `space`.

        With a velocity error e_v, noise has a^2 e_v and clean latents s^2 e_v, for diffusion and flow alike.
        """
        a, s = self.signal[timestep], self.noise[timestep]
        if space == "native":
            return torch.ones_like(a)
        return PREDICTIONS[_SPACES[space]].scale(a, s) / PREDICTIONS[self.prediction].scale(a, s)

    @staticmethod
    def _at(table: Tensor, timestep: Tensor, like: Tensor) -> Tensor:
        return table[timestep].reshape(-1, *[1] * (like.ndim - 1))


def min_snr_weight(snr: Tensor, prediction: str, gamma: float) -> Tensor:
    """min(SNR, gamma) / (SNR + offset), [B]; at SNR 0 (a schedule that ends in pure noise) its limit. The
    clean latents' own error is weighted by min(SNR, gamma)."""
    if prediction == "sample":
        return snr.clamp(max=gamma)
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
    timesteps: Callable[[int, torch.Generator], Tensor],
    num_draws: int,
    caption_dropout: float,
    noise_offset: float,
) -> dict[str, Tensor]:
    """Everything random about scoring one sample with latents of `shape` (channels first), from its seed.

    `timesteps(count, stream)` draws the levels. All of it is always drawn, in this order, so that one setting
    leaves the draws of the others as they were.
    """
    stream = torch.Generator().manual_seed(seed)
    drop = torch.rand((), generator=stream) < caption_dropout
    latent_noise = torch.randn(shape, generator=stream)
    timestep = timesteps(num_draws, stream)
    noise = torch.randn((num_draws, *shape), generator=stream)
    shift = torch.randn((num_draws, shape[0], *[1] * (len(shape) - 1)), generator=stream)
    noise = noise + noise_offset * shift
    flip = torch.rand((), generator=stream) < 0.5  # read only where mirrored latents are at hand
    return {"timestep": timestep, "noise": noise, "latent_noise": latent_noise, "drop": drop, "flip": flip}
