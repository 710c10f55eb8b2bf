"""Pictures from a text-conditioned denoiser: DDIM (arXiv 2010.02502) with classifier-free guidance.

Every prompt's starting noise comes from its own seed on the CPU, so a picture does not depend on which other
prompts are sampled with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Condition = Mapping[str, Tensor]  # all that the denoiser is told of B pictures beside noise level, by name
Denoise = Callable[[Tensor, Tensor, Condition], Tensor]  # (x_t [B, C, h, w], timestep [], condition)


@dataclass(frozen=True)
class Generation:
    """How pictures are sampled."""

    steps: int = 50
    guidance: float = 7.5  # 1 samples without guidance (arXiv 2207.12598)
    eta: float = 0.0  # share of DDPM's noise added at each step; 0 is deterministic
    batch: int = 8  # pictures per forward

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"generation.steps: must be 1 or more, got {self.steps}")
        if self.guidance < 1:
            raise ValueError(f"generation.guidance: must be 1 or more, got {self.guidance}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"generation.eta: must lie in [0, 1], got {self.eta}")
        if self.batch < 1:
            raise ValueError(f"generation.batch: must be 1 or more, got {self.batch}")


def sample_latents(
    denoise: Denoise,
    scheduler: Any,
    condition: Condition,
    empty: Condition,
    shape: tuple[int, ...],
    seeds: Sequence[int],
    settings: Generation,
) -> Tensor:
    """Clean latents [B, *shape] in float32 under a condition, guided away from `empty`, both of B pictures.

    `scheduler` is a DDIMScheduler; it is set to `settings.steps` here.
    """
    device = condition["states"].device
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def noise() -> Tensor:
        return torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(device)

    guided = settings.guidance > 1
    if guided:
        condition = {name: torch.cat([empty[name], condition[name]]) for name in condition}
    scheduler.set_timesteps(settings.steps, device=device)
    latents = noise() * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        noised = torch.cat([latents, latents]) if guided else latents
        prediction = denoise(noised, timestep, condition).float()
        if guided:
            without, under = prediction.chunk(2)
            prediction = without + settings.guidance * (under - without)
        added = noise() if settings.eta > 0 else None
        latents = scheduler.step(
            prediction, timestep, latents, eta=settings.eta, variance_noise=added
        ).prev_sample
    return latents
