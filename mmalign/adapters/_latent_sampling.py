"""Latents from a text-conditioned denoiser: DDIM (arXiv 2010.02502) or a flow's Euler steps, with
classifier-free guidance (arXiv 2207.12598).

Every prompt's starting noise comes from its own seed on the CPU, so a picture does not depend on which other
prompts are sampled with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmalign.adapters._families import Condition
from mmalign.types import UserError

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]  # (x_t [B, C, ...], time [], condition) -> prediction


@dataclass(frozen=True)
class Generation:
    """How pictures and clips are sampled."""

    steps: int = 50  # denoising steps of one picture or clip
    guidance: float | None = None  # 1 samples without guidance; null: as usual for the family
    # share of DDPM's noise added at each step; 0 is deterministic. Null: 0, but 1 on paths that are trained
    # on (d3po, ddpo, spo), whose steps have a density only with noise. Not for flows
    eta: float | None = None
    batch: int = 8  # pictures or clips per forward

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"generation.steps: must be 1 or more, got {self.steps}")
        if self.guidance is not None and self.guidance < 1:
            raise ValueError(f"generation.guidance: must be 1 or more, got {self.guidance}")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise ValueError(f"generation.eta: must lie in [0, 1], got {self.eta}")
        if self.batch < 1:
            raise ValueError(f"generation.batch: must be 1 or more, got {self.batch}")


@dataclass(frozen=True)
class Sampler:
    """A sampling loop over one scheduler. `grid(scheduler, steps, shape)` sets its timesteps."""

    scheduler: Any  # of diffusers: DDIM's interface, or FlowMatchEulerDiscreteScheduler
    grid: Callable[[Any, int, Sequence[int]], None]
    flow: bool
    steps: int
    guidance: float
    eta: float = 0.0

    def start(self, shape: Sequence[int], seeds: Sequence[int], device: torch.device) -> Noise:
        """Set the timesteps for latents of `shape`, and open one noise stream per seed."""
        self.grid(self.scheduler, self.steps, shape)
        self.scheduler.timesteps = self.scheduler.timesteps.to(device)
        return Noise([torch.Generator().manual_seed(seed) for seed in seeds], tuple(shape), device)

    def predict(
        self, denoise: Denoise, x: Tensor, time: Tensor, condition: Condition, empty: Condition
    ) -> Tensor:
        """The guided prediction in float32: without + guidance * (under - without)."""
        if self.guidance == 1:
            return denoise(x, time, condition).float()
        both = {name: torch.cat([empty[name], condition[name]]) for name in condition}
        without, under = denoise(torch.cat([x, x]), time, both).float().chunk(2)
        return without + self.guidance * (under - without)

    def step(self, prediction: Tensor, time: Tensor, x: Tensor, noise: Noise) -> Tensor:
        """The next, less noised latents."""
        if self.flow:
            return self.scheduler.step(prediction, time, x, return_dict=False)[0]
        added = noise() if self.eta > 0 else None
        return self.scheduler.step(
            prediction, time, x, eta=self.eta, variance_noise=added, return_dict=False
        )[0]

    def sample(
        self,
        denoise: Denoise,
        condition: Condition,
        empty: Condition,
        shape: Sequence[int],
        seeds: Sequence[int],
        device: torch.device,
    ) -> Tensor:
        """Clean latents [B, *shape] in float32 under a condition, guided away from `empty`, both of B."""
        noise = self.start(shape, seeds, device)
        latents = noise() * (1.0 if self.flow else self.scheduler.init_noise_sigma)
        return self._walked(denoise, latents, (condition, empty), noise, 0)

    def sample_from(
        self,
        denoise: Denoise,
        conditions: tuple[Condition, Condition],
        clean: Tensor,
        seeds: Sequence[int],
        strength: float,
    ) -> Tensor:
        """New clean latents from those of media, [B, C, ...] in float32, noised to the noisiest level of the
        grid that is not above `strength` and denoised from there (arXiv 2108.01073). `conditions`: the
        media's own, and what guidance moves away from. Raises UserError if every level is above it."""
        noise = self.start(clean.shape[1:], seeds, clean.device)
        first = self.place_of(strength)
        return self._walked(denoise, self._noised(clean, noise(), first), conditions, noise, first)

    def place_of(self, strength: float) -> int:
        """Place of the noisiest level that is not above `strength` in the grid, which is set. Raises
        UserError if every level is above it."""
        shares = self._shares()
        first = next((place for place, share in enumerate(shares) if share <= strength), None)
        if first is None:
            raise UserError(
                f"strength: {strength:g} is below the sampler's least noise, {shares[-1]:.3g} with "
                f"generation.steps={self.steps}; raise one of them"
            )
        return first

    def _shares(self) -> list[float]:
        """The grid's levels, noisiest first: 1 is pure noise; a flow's is the share of noise itself."""
        levels = (
            self.scheduler.sigmas[:-1] if self.flow else self.scheduler.timesteps.double() / self._trained
        )
        return [float(level) for level in levels]

    @property
    def _trained(self) -> int:
        return int(self.scheduler.config.num_train_timesteps)

    def _noised(self, clean: Tensor, eps: Tensor, place: int) -> Tensor:
        """Clean latents with noise of the grid's level at `place`."""
        if self.flow:
            share = self.scheduler.sigmas[place].to(clean)
            return (1 - share) * clean + share * eps
        noised: Tensor = self.scheduler.add_noise(
            clean, eps, self.scheduler.timesteps[place].expand(len(clean))
        )
        return noised

    def _walked(
        self,
        denoise: Denoise,
        latents: Tensor,
        conditions: tuple[Condition, Condition],
        noise: Noise,
        first: int,
    ) -> Tensor:
        """Latents denoised from the grid's level at place `first` on."""
        if self.flow:
            self.scheduler.set_begin_index(first)
        for time in self.scheduler.timesteps[first:]:
            prediction = self.predict(denoise, latents, time, *conditions)
            latents = self.step(prediction, time, latents, noise)
        return latents


@dataclass(frozen=True)
class Noise:
    """Standard normal latents, each from its own stream on the CPU."""

    streams: Sequence[torch.Generator]
    shape: tuple[int, ...]
    device: torch.device

    def __call__(self) -> Tensor:
        """The next [B, *shape] of the streams."""
        return torch.stack([torch.randn(self.shape, generator=one) for one in self.streams]).to(self.device)
