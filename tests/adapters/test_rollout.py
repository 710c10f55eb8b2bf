"""Sampling with a gradient, by a denoiser that is known exactly: where it flows, and what a step predicts."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from mmalign.adapters._latent_sampling import Noise, Sampler
from mmalign.adapters._rollout import Gradients
from mmalign.types import Rollout

STEPS = 6
SHAPE = (2, 3, 3)


def grid(scheduler: Any, steps: int, shape: Sequence[int]) -> None:
    scheduler.set_timesteps(steps)


def opened(flow: bool) -> tuple[Sampler, Noise]:
    scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0)
        if flow
        else DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
        )
    )
    sampler = Sampler(scheduler, grid, flow, STEPS, 1.0)
    return sampler, sampler.start(SHAPE, [1, 2], torch.device("cpu"))


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_the_gradient_of_every_second_step_flows_along_the_latents_alone(flow: bool, first: int) -> None:
    """Against the sampler's own steps: only predictions of the chosen steps are differentiated, and none of
    them by what it is shown (arXiv 2410.11817)."""
    weight = torch.tensor(0.6, requires_grad=True)

    def denoise(x: Tensor, time: Tensor, condition: Any) -> Tensor:
        return torch.sin(weight * x)

    sampler, noise = opened(flow)
    found = Gradients(sampler, Rollout(STEPS, (0, 0), every=2), first).latents(denoise, {}, {}, SHAPE, noise)
    (gradient,) = torch.autograd.grad(found.square().sum(), weight)

    sampler, noise = opened(flow)
    x = noise()
    for place, time in enumerate(sampler.scheduler.timesteps):
        shown = x.detach()
        prediction = torch.sin((weight if place % 2 == first else weight.detach()) * shown)
        x = sampler.step(prediction, time, x, noise)
    assert torch.allclose(found, x)
    (wanted,) = torch.autograd.grad(x.square().sum(), weight)
    assert float(gradient) == pytest.approx(float(wanted), rel=1e-5)

    sampler, noise = opened(flow)
    x = noise()
    for place, time in enumerate(sampler.scheduler.timesteps):
        prediction = torch.sin((weight if place % 2 == first else weight.detach()) * x)
        x = sampler.step(prediction, time, x, noise)
    (through,) = torch.autograd.grad(x.square().sum(), weight)
    assert abs(float(through - wanted)) > 1e-2 * abs(float(wanted))  # so the two can be told apart


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("first", [0, 3, 5])
def test_a_right_prediction_at_any_step_gives_the_clean_latents(flow: bool, first: int) -> None:
    """A denoiser that knows the clean latents of every sample: each step's prediction implies them."""
    torch.manual_seed(0)
    clean = torch.randn(2, *SHAPE)
    sampler, noise = opened(flow)

    def denoise(x: Tensor, time: Tensor, condition: Any) -> Tensor:
        if flow:
            return (x - clean) / (time / 1000)
        kept = sampler.scheduler.alphas_cumprod[int(time)]
        return (x - kept.sqrt() * clean) / (1 - kept).sqrt()

    rollout = Rollout(STEPS, (first, first), predict=True)
    found = Gradients(sampler, rollout, first).latents(denoise, {}, {}, SHAPE, noise)
    assert torch.allclose(found, clean, atol=1e-4)
