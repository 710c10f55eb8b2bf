"""Scoring a denoiser along inverted paths, and finding those paths.

Letters: N rows, D noise draws, K steps of a path of which P are picked; latents are [C, ...].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmalign.adapters._families import Condition
from mmalign.adapters._inversion import grid, levels_below, noise_scale, retrace, walk
from mmalign.adapters._latent_sampling import Denoise
from mmalign.adapters._noise import Schedule, mean_error
from mmalign.types import Batch, Draw, Inversion, LogProbs, derive_seed


@dataclass(frozen=True)
class Told:
    """A denoiser with what it is told of N rows, and of the same rows without their captions."""

    denoise: Denoise
    schedule: Schedule
    condition: Condition
    empty: Condition

    def predict(self, x: Tensor, level: Tensor, rows: Tensor, guidance: float) -> Tensor:
        """Guided predictions in float32 at integer levels [n] of latents x [n, C, ...] of rows [n]."""
        time = self.schedule.time(level)
        told = {name: value[rows] for name, value in self.condition.items()}
        if guidance == 1:
            return self.denoise(x, time, told).float()
        both = {name: torch.cat([self.empty[name][rows], value]) for name, value in told.items()}
        without, under = self.denoise(torch.cat([x, x]), torch.cat([time, time]), both).float().chunk(2)
        return without + guidance * (under - without)


def whole_paths(told: Told, x0: Tensor, inversion: Inversion) -> dict[str, Tensor]:
    """The walk from clean latents x0 [N, C, ...]: its start, the predictions `path_led` [N, K, C, ...] that
    led it, and `path_level` [N, K] long. The latents between follow from these."""
    levels = grid(told.schedule.num_timesteps, inversion.steps).expand(len(x0), -1)
    _, led = walk(
        lambda x, level, rows: told.predict(x, level, rows, inversion.guidance), told.schedule, x0, levels
    )
    return {
        "path_start": x0,
        "path_led": led,
        "path_level": levels.contiguous().to(x0.device, non_blocking=True),
    }


def implied_noise(
    told: Told, x0: Tensor, timestep: Tensor, inversion: Inversion, seeds: Sequence[int], sample: Tensor
) -> Tensor:
    """The noise eps* [N, D, C, ...] with a x0 + s eps* = x_t, where x_t is inverted from x0 [N, C, ...] to
    the levels `timestep` [N, D]. `seeds` are the samples', for the noise that `jitter` adds."""
    schedule, draws = told.schedule, timestep.shape[1]
    clean, ends = x0.repeat_interleave(draws, 0), timestep.flatten()
    levels = levels_below(grid(schedule.num_timesteps, inversion.steps), ends.cpu())  # the one wait of a walk
    jitter = None
    if inversion.jitter:
        shape = (draws, levels.shape[1], *x0.shape[1:])
        streams = [torch.Generator().manual_seed(derive_seed(seed, 0, "", "jitter")) for seed in seeds]
        noise = torch.stack([torch.randn(shape, generator=stream) for stream in streams])
        noise = noise.to(x0.device, non_blocking=True)
        jitter = inversion.jitter * noise[sample.to(noise.device, non_blocking=True)].flatten(0, 1)
    path, _ = walk(
        lambda x, level, places: told.predict(x, level, places // draws, inversion.guidance),
        schedule,
        clean,
        levels,
        jitter,
    )
    a, s = (table[ends].reshape(-1, *[1] * (x0.ndim - 1)) for table in (schedule.signal, schedule.noise))
    return ((path[:, -1] - a * clean) / s).unflatten(0, timestep.shape)


def score_path(told: Told, batch: Batch, draw: Draw, needs: frozenset[str]) -> LogProbs:
    """How far the guided prediction departs from the one that led the path, at its picked steps.

    `error` [N, P] is the mean squared gap of the implied noises, `values` half of it, negative, and `signal`
    the factor a of the level. `prediction` and `target` [N, P, C, ...] where `needs` names them, as noise.
    """
    schedule, pick, led = told.schedule, draw["path_pick"], draw["path_led"]
    rows = torch.arange(len(pick), device=pick.device)[:, None].expand_as(pick)
    path = retrace(schedule, draw["path_start"], led, draw["path_level"])
    flat, level = rows.flatten(), draw["path_level"][rows, pick]
    x, target = path[rows, pick].flatten(0, 1), led[rows, pick].flatten(0, 1)
    prediction = told.predict(x, level.flatten(), flat, float(draw["path_guidance"][0]))
    before = torch.where(pick > 0, draw["path_level"][rows, (pick - 1).clamp(min=0)], -1)
    rescaling = noise_scale(schedule, before.flatten()).reshape(pick.shape)  # as the walk read the latents
    error = mean_error(prediction, target).reshape(pick.shape) * rescaling
    root = rescaling.flatten().sqrt().reshape(-1, *[1] * (x.ndim - 1))
    whole: Mapping[str, Any] = {}
    if "prediction" in needs:
        whole = {
            "prediction": (root * prediction).unflatten(0, pick.shape),
            "target": (root * target).unflatten(0, pick.shape),
        }
    return LogProbs(
        values=-0.5 * error,
        mask=torch.ones_like(pick, dtype=torch.bool),
        kind="trajectory",
        unit="step",
        sample=batch.row_sample,
        slot=batch.row_slot,
        error=error,
        timestep=schedule.share(level),
        signal=schedule.signal[level],
        **whole,
    )
