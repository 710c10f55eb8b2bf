"""How an objective wants a denoiser's sampler used: walked backwards from data, or forwards to new media."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from mmalign.messages import Message, Part


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


@dataclass(frozen=True)
class SampledPath:
    """A response and the noisy path it was sampled along; `data` is what a row of the path holds, encoded."""

    response: Part
    data: Mapping[str, Tensor]


@dataclass(frozen=True)
class BranchedPath:
    """A path that branches at each of its K steps: for every step the branch judged best and the one judged
    worst, as rows that start from the same noisy latents; `margins` says by how much, K numbers."""

    chosen: Mapping[str, Tensor]
    rejected: Mapping[str, Tensor]
    margins: tuple[float, ...]
    response: Part


Judged = Callable[[Sequence[Part], Sequence[int], int], list[float]]
"""Scores of responses, given with the places of their prompts in the list that is being sampled, and the
noise level, 0 for clean, of the latents that the responses were predicted from; NaN: no verdict."""


class PathSampler(Protocol):
    """An adapter that offers "transition": it samples along paths whose steps have a density."""

    def sample_paths(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[SampledPath]:
        """One response per prompt with its path. Raises UserError for a sampler without noise."""

    def branch_paths(
        self,
        model: nn.Module,
        prompts: Sequence[tuple[Message, ...]],
        seeds: Sequence[int],
        branches: tuple[int, int],
        judged: Judged,
    ) -> list[BranchedPath]:
        """One branching path per prompt: `branches` are their number at each step and how many steps come
        before the first of them. `judged` sees the clean picture that each branch already predicts. A branch
        without a verdict is neither the best nor the worst, and of fewer than two others the margin is 0."""


@runtime_checkable
class Noising(Protocol):
    """An adapter that scores media by noising them, so that two models it scores must know one noise."""

    def other_noise(self, other: Noising) -> str | None:
        """How another's family, kind of prediction or noise levels differ from these; None if they do not."""


@runtime_checkable
class MediaCopier(Protocol):
    """An adapter that makes copies of media: part of the way to noise and back."""

    def copies(
        self,
        model: nn.Module,
        prompts: Sequence[tuple[Message, ...]],
        media: Sequence[Part],
        seeds: Sequence[int],
        strength: float,
    ) -> list[Part]:
        """One copy of every decoded picture or clip under its prompt, noised to the share `strength` of the
        noise levels, 1 being pure noise, and denoised; equal seeds give equal copies. Raises UserError for
        media that it does not read and for a strength below the sampler's least level."""

    def check_strength(self, strength: float) -> None:
        """Raise UserError for a strength below the sampler's least level."""

    def cuts(self, count: int) -> tuple[tuple[int, int], ...]:
        """First and one past the last frame of each of `count` segments of a clip, as denoising errors are
        told by segment. Raises UserError for pictures and for more segments than can be told apart."""
