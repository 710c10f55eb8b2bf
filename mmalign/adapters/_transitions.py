"""Sampling paths whose steps have a density: DDIM that adds noise, walked, branched and scored.

A step from level t to the lower level p draws the next latents from a normal distribution (arXiv 2010.02502,
eq. 12 and 16), so that a model gives every stored step a likelihood (arXiv 2305.13301, section 4). Levels:
p = max(t - T // K, 0) of T trained levels and K steps. A step from level 0 draws nothing and is not kept.

Letters: N rows, B paths, K steps of which P are picked, n latents; latents are [C, ...].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmalign.adapters._denoiser_paths import Told
from mmalign.adapters._inversion import deviation
from mmalign.adapters._latent_sampling import Noise
from mmalign.adapters._noise import Schedule
from mmalign.types import Batch, Draw, LogProbs, UserError

PATH = ("path", "path_next", "path_level", "path_below", "path_eta", "path_guidance")
"""Tensors of a path's row besides its conditions; `path_next` only where steps do not follow each other."""

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


def refuse_flow(flow: bool, noiseless: bool, family: str) -> None:
    """Raise UserError for a family whose sampler gives its steps no density."""
    if flow:
        raise UserError(f"model: a {family} is a flow: no transition density; needs an SDE sampler")
    if noiseless:
        raise UserError(f"model: the sampler of a {family} adds no noise: no transition density")


def moments(
    schedule: Schedule, prediction: Tensor, x: Tensor, level: Tensor, below: Tensor, eta: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean [n, C, ...] and standard deviation [n] of the next latents, from `level` [n] to `below` [n]."""
    clean, noise = schedule.parts(prediction, x, level)
    spread = eta * deviation(schedule, below, level)
    rest = (schedule.noise[below] ** 2 - spread**2).clamp(min=0).sqrt()
    return _wide(schedule.signal[below], x) * clean + _wide(rest, x) * noise, spread


def log_density(x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Log-density of latents x [n, C, ...] under normals of these means and deviations [n], a mean over the
    elements and not their sum, [n]: clip ranges and betas of these methods are meant for means."""
    gap = (x - mean).pow(2).flatten(1).mean(1)
    return -gap / (2 * spread**2) - spread.log() - _LOG_ROOT_2PI


def score_steps(told: Told, batch: Batch, draw: Draw) -> LogProbs:
    """Log-densities [N, P] of the picked steps of stored paths, guided as they were sampled."""
    schedule, pick, inputs = told.schedule, draw["path_pick"], batch.inputs
    rows = torch.arange(len(pick), device=pick.device)[:, None].expand_as(pick)
    level, below = inputs["path_level"][rows, pick], inputs["path_below"][rows, pick]
    x = inputs["path"][rows, pick].flatten(0, 1)
    after = inputs["path_next"][rows, pick] if "path_next" in inputs else inputs["path"][rows, pick + 1]
    flat, guidance = rows.flatten(), float(inputs["path_guidance"][0])
    prediction = told.predict(x, level.flatten(), flat, guidance)
    eta = inputs["path_eta"][flat]
    mean, spread = moments(schedule, prediction, x, level.flatten(), below.flatten(), eta)
    return LogProbs(
        values=log_density(after.flatten(0, 1), mean, spread).reshape(pick.shape),
        mask=torch.ones_like(pick, dtype=torch.bool),
        kind="trajectory",
        unit="step",
        sample=batch.row_sample,
        slot=batch.row_slot,
        timestep=schedule.share(level),
        signal=schedule.signal[level],
    )


@dataclass(frozen=True)
class Walk:
    """Paths of B prompts. `level` and `below` [K] are those of its steps, from the noisiest on."""

    told: Told
    level: Tensor
    below: Tensor
    guidance: float
    eta: float

    @classmethod
    def of(cls, told: Told, times: Tensor, guidance: float, eta: float) -> Walk:
        """Along a sampler's timesteps [K], integer levels in falling order."""
        level = times.to(told.schedule.signal.device).long()
        below = (level - told.schedule.num_timesteps // len(level)).clamp(min=0)
        return cls(told, level, below, guidance, eta)

    @property
    def kept(self) -> int:
        """Steps that draw something."""
        return int((self.level > self.below).sum())

    def paths(self, noise: Noise) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Clean latents [B, C, ...] and the rows of the paths to them, on the CPU."""
        x = noise()
        path = [x]
        for step in range(len(self.level)):
            mean, spread = self._moments(x, step, torch.arange(len(x), device=x.device))
            x = mean + _wide(spread, mean) * noise()
            path.append(x)
        stored = torch.stack(path[: self.kept + 1], 1).cpu()
        return x, [self._row(path, slice(0, self.kept), place) for place, path in enumerate(stored)]

    def branches(
        self, noise: Noise, count: int, first: int, judged: Callable[[Tensor, int], Tensor], choices: Tensor
    ) -> tuple[Tensor, list[tuple[dict[str, Tensor], dict[str, Tensor], list[float]]]]:
        """Clean latents [B, C, ...], and for every path the rows of its best and worst branches, from step
        `first` on, with the margins between the two.

        `judged` scores clean latents [B * count, C, ...] that are predicted from a level -> [B, count], NaN
        without a verdict: such a branch is on neither side, and of fewer than two others the margin is 0;
        branch `choices` [B, K] is the one that the path goes on from.
        """
        x = noise()
        before, best, worst, margins = [], [], [], []
        size, kept = torch.arange(len(x), device=x.device), self.kept
        for step in range(len(self.level)):
            mean, spread = self._moments(x, step, size)
            if not first <= step < kept:
                x = mean + _wide(spread, mean) * noise()
                continue
            made = torch.stack([mean + _wide(spread, mean) * noise() for _ in range(count)], 1)
            scores = judged(self._foreseen(made, step), int(self.below[step])).to(x.device)
            before.append(x)
            unread = scores.isnan()
            highest = scores.masked_fill(unread, -math.inf).max(1)
            lowest = scores.masked_fill(unread, math.inf).min(1)
            best.append(made[size, highest.indices])
            worst.append(made[size, lowest.indices])
            apart = highest.values - lowest.values
            margins.append(apart.masked_fill((~unread).sum(1) < 2, 0.0))
            x = made[size, choices[:, step].to(x.device)]
        sides = [torch.stack(side, 1).cpu() for side in (before, best, worst)]
        gaps = torch.stack(margins, 1).tolist()
        part = slice(first, kept)
        found = []
        for place, (start, good, bad) in enumerate(zip(*sides, strict=True)):
            plain = self._row(start, part, place)
            found.append(({**plain, "path_next": good}, {**plain, "path_next": bad}, gaps[place]))
        return x, found

    def _foreseen(self, made: Tensor, step: int) -> Tensor:
        """The clean latents that branches [B, count, C, ...] after a step predict, [B * count, C, ...]."""
        flat = made.flatten(0, 1)
        rows = torch.arange(len(made), device=made.device).repeat_interleave(made.shape[1])
        level = self.below[step].expand(len(flat))
        prediction = self.told.predict(flat, level, rows, self.guidance)
        return self.told.schedule.parts(prediction, flat, level)[0]

    def _moments(self, x: Tensor, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        level, below = (levels[step].expand(len(x)) for levels in (self.level, self.below))
        prediction = self.told.predict(x, level, rows, self.guidance)
        return moments(self.told.schedule, prediction, x, level, below, x.new_full((len(x),), self.eta))

    def _row(self, path: Tensor, steps: slice, place: int) -> dict[str, Tensor]:
        """What scoring the steps of one path takes."""
        return {
            "path": path.clone(),
            "path_level": self.level[steps].cpu().clone(),
            "path_below": self.below[steps].cpu().clone(),
            "path_eta": torch.tensor(self.eta),
            "path_guidance": torch.tensor(self.guidance),
            **{name: value[place].cpu().clone() for name, value in self.told.condition.items()},
        }


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
