"""Noised latents by inversion: the deterministic sampler walked backwards from clean latents.

Letters: B latents (rows, or rows and draws), K steps of a walk; latents are [C, ...].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmalign.adapters._noise import PREDICTIONS, Schedule

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x [n, C, ...], level [n], places in B [n]) -> like x


def grid(num_timesteps: int, steps: int) -> Tensor:
    """`steps` integer levels from 0 upwards, evenly spread with the noisiest left out, [steps] long."""
    return torch.arange(steps) * (num_timesteps // steps)


def levels_below(levels: Tensor, start: Tensor) -> Tensor:
    """For each end of a walk in `start` [B] the grid `levels` below it and then itself, [B, K] long; shorter
    walks repeat their end."""
    ends = start[:, None]
    return torch.cat([torch.where(levels[None] < ends, levels[None], ends), ends], 1)


def walk(
    predict: Predict, schedule: Schedule, x0: Tensor, levels: Tensor, jitter: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The latents before each step and at the end, [B, K + 1, C, ...], and the predictions that led, [B, K,
    C, ...], both on the device.

    Before a step to level t the latents are at the level before; the prediction is made there, as of level t.
    A step to the same level changes nothing and costs nothing. `levels` [B, K] are on the CPU: how many
    latents move with a step must be known there. `jitter` [B, K, C, ...] is noise to be added, already scaled
    by its share.
    """
    path, led = [x0], []
    current = torch.full_like(levels[:, 0], -1)
    for step in range(levels.shape[1]):
        x, prediction = path[-1].clone(), torch.zeros_like(x0)
        places = torch.nonzero(levels[:, step] > current).flatten()
        if len(places):
            moving, before, target = (
                values.to(x0.device, non_blocking=True)
                for values in (places, current[places], levels[places, step])
            )
            found = predict(x[moving], target, moving)
            prediction[moving] = found
            moved = move(schedule, found, x[moving], before, target)
            if jitter is not None:
                wide = _wide(deviation(schedule, before, target), moved)
                moved = moved + wide * jitter[moving, step]
            x[moving] = moved
        path.append(x)
        led.append(prediction)
        current = torch.maximum(current, levels[:, step])
    return torch.stack(path, 1), torch.stack(led, 1)


def move(schedule: Schedule, prediction: Tensor, x: Tensor, current: Tensor, target: Tensor) -> Tensor:
    """Latents [n, C, ...] carried from level `current` [n] to `target` [n]; current -1 is clean."""
    a, s = _factors(schedule, current)
    a, s = _wide(a, x), _wide(s, x)
    clean, noise = PREDICTIONS[schedule.prediction].parts(prediction, x, a, s)
    return _wide(schedule.signal[target], x) * clean + _wide(schedule.noise[target], x) * noise


def retrace(schedule: Schedule, x0: Tensor, led: Tensor, levels: Tensor) -> Tensor:
    """The latents [B, K + 1, C, ...] of a walk without added noise from its start and what led it: bit for
    bit those of the walk, where its levels [B, K] rise from step to step."""
    path, current = [x0], torch.full_like(levels[:, 0], -1)
    for step in range(levels.shape[1]):
        path.append(move(schedule, led[:, step], path[-1], current, levels[:, step]))
        current = levels[:, step]
    return torch.stack(path, 1)


def noise_scale(schedule: Schedule, current: Tensor) -> Tensor:
    """Factor [n] that turns squared gaps of native predictions at latents of level `current` [n], -1 for
    clean ones, into those of the noise they imply there."""
    a, s = _factors(schedule, current)
    return a**2 / PREDICTIONS[schedule.prediction].scale(a, s)


def _factors(schedule: Schedule, level: Tensor) -> tuple[Tensor, Tensor]:
    """Factors at levels [n]; below the first a flow's latents are clean, and a noise schedule's as at its
    first level, as samplers end."""
    a, s = schedule.signal[level.clamp(min=0)], schedule.noise[level.clamp(min=0)]
    if not schedule.flow:
        return a, s
    return torch.where(level < 0, 1.0, a), torch.where(level < 0, 0.0, s)


def deviation(schedule: Schedule, current: Tensor, target: Tensor) -> Tensor:
    """Standard deviation [n] of latents of level `current` given those of level `target` and clean ones, as
    DDPM's steps have it: s / s_t sqrt(s_t^2 - (a_t / a)^2 s^2). With a^2 + s^2 = 1 that is arXiv 2010.02502,
    eq. 16; a flow's levels need the general form."""
    a, s = _factors(schedule, current)
    a_t, s_t = schedule.signal[target], schedule.noise[target]
    return s / s_t * (s_t**2 - (a_t / a * s) ** 2).clamp(min=0).sqrt()


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
