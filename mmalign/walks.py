"""How an objective wants a denoiser's sampler used: walked backwards from data, or forwards to new media."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Inversion:
    """Noised latents found by walking deterministic sampling backwards from clean ones, instead of adding
    random noise (DDIM inversion, arXiv 2010.02502, section 4.3).

    Predictions of `source` lead the walk over a grid of `steps` noise levels. With `whole` every step of the
    walk is scored, at the latents before the step, under `guidance`; `count` picks that many of the steps at
    random. Else the walk ends at the level drawn for the sample, and what it ends at is scored like any
    noised latents, against the noise that would lead there.
    """

    source: Literal["policy", "reference"]
    steps: int
    whole: bool = False
    guidance: float = 1.0
    jitter: float = 0.0  # share of DDPM's noise added at each step
    count: int | None = None


@dataclass(frozen=True)
class Rollout:
    """Media sampled with a gradient, for a differentiable reward.

    Of `steps` steps the first ones run without a gradient. The one where it begins is drawn per sample from
    `first` (both ends included), uniformly or, with `spread`, from a normal distribution (mean, deviation)
    rounded and drawn again until it lies in the range. The gradient flows through all steps from there to the
    end; with `predict` sampling stops after the first of them, at the clean latents that it predicts.

    `every` n instead keeps the gradient of the predictions at every n-th step only, from a random one on,
    and takes none through what the denoiser is given: it flows along the latents alone.
    """

    steps: int
    first: tuple[int, int]
    spread: tuple[float, float] | None = None
    predict: bool = False
    every: int | None = None
    guidance: float | None = None  # null: the adapter's own
