"""Media sampled with a gradient: which steps keep theirs, and what is decoded in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmalign.adapters._families import Condition
from mmalign.adapters._latent_sampling import Denoise, Noise, Sampler
from mmalign.types import Rollout, derive_seed


def first_steps(rollout: Rollout, seeds: Sequence[int]) -> list[int]:
    """The step at which each sample's gradient begins, from the samples' seeds; with `every`, the phase."""
    low, high = rollout.first if rollout.every is None else (0, rollout.every - 1)
    found = []
    for seed in seeds:
        stream = torch.Generator().manual_seed(derive_seed(seed, 0, "", "rollout"))
        step = -1
        while not low <= step <= high:
            if rollout.spread is None:
                step = int(torch.randint(low, high + 1, (), generator=stream))
            else:
                mean, deviation = rollout.spread
                step = round(mean + deviation * float(torch.randn((), generator=stream)))
        found.append(step)
    return found


@dataclass(frozen=True)
class Gradients:
    """A sampling loop that keeps a gradient from step `first` on, for samples that share it."""

    sampler: Sampler
    rollout: Rollout
    first: int

    def latents(
        self, denoise: Denoise, condition: Condition, empty: Condition, shape: Sequence[int], noise: Noise
    ) -> Tensor:
        """Clean latents [B, C, ...] with their graph. Each step that keeps a gradient is computed again in
        backward, so that what is held does not grow with what a denoiser holds."""
        scheduler, x = self.sampler.scheduler, noise()
        x = x * (1.0 if self.sampler.flow else scheduler.init_noise_sigma)
        for place, time in enumerate(scheduler.timesteps):

            def predicted(latents: Tensor, time: Tensor = time) -> Tensor:
                return self.sampler.predict(denoise, latents, time, condition, empty)

            prediction = self._predict(predicted, x, place)
            if self.rollout.predict and place == self.first:
                return self._clean(prediction, time, x)
            x = self.sampler.step(prediction, time, x, noise)
        return x

    def _predict(self, predicted: Callable[[Tensor], Tensor], x: Tensor, place: int) -> Tensor:
        """The prediction at one step: with a graph, without one, or with one that ends at what goes in."""
        every = self.rollout.every
        if not torch.is_grad_enabled() or (every is None and place < self.first):
            with torch.no_grad():
                return predicted(x)
        if every is None:
            return self._again(predicted, x)
        if place % every != self.first:
            with torch.no_grad():
                return predicted(x.detach())
        return self._again(predicted, x.detach())

    @staticmethod
    def _again(predicted: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        done: Tensor = checkpoint(predicted, x, use_reentrant=False)
        return done

    def _clean(self, prediction: Tensor, time: Tensor, x: Tensor) -> Tensor:
        """The clean latents that a prediction at x implies."""
        if self.sampler.flow:
            return x - time / self.sampler.scheduler.config.num_train_timesteps * prediction
        clean: Tensor = self.sampler.scheduler.step(prediction, time, x).pred_original_sample
        return clean
