"""Inverted paths under a denoiser that is known exactly: what is added on the way, how gaps are counted."""

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from mmalign.adapters._denoiser_paths import Told, implied_noise, score_path
from mmalign.adapters._inversion import deviation, retrace
from mmalign.adapters._noise import Schedule
from mmalign.types import Batch, Inversion, derive_seed

CPU = torch.device("cpu")
SHAPE = (2, 3, 3)


def schedule_of(kind: str) -> Schedule:
    if kind == "flow":
        return Schedule.of_flow(torch.arange(1, 1001) / 1000, CPU)
    upstream = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return Schedule.of(upstream.alphas_cumprod, kind, CPU)


def saying(schedule: Schedule, said: Tensor) -> Told:
    """A denoiser that predicts `said` [C, ...] whatever it is shown."""
    return Told(lambda x, time, condition: said.expand_as(x), schedule, {}, {})


def batch_of(*samples: int) -> Batch:
    zeros, names = torch.zeros(len(samples), dtype=torch.long), tuple(f"s{i}" for i in set(samples))
    return Batch({}, ("chosen",), zeros, torch.tensor(samples), zeros, names)


@pytest.mark.parametrize("jitter", [0.1, 0.7])
def test_the_noise_that_jitter_adds_in_numbers(jitter: float) -> None:
    """Of its share and of DDPM's deviation at each step, carried on to the end as the latents are; rows of a
    sample share it, samples do not."""
    schedule = schedule_of("epsilon")
    told = saying(schedule, torch.zeros(SHAPE))
    x0, sample = torch.zeros(3, *SHAPE), torch.tensor([0, 0, 1])
    ends = torch.tensor([[100, 250], [100, 250], [100, 250]])
    found = implied_noise(told, x0, ends, Inversion("policy", 10, jitter=jitter), [11, 12], sample)
    streams = [torch.Generator().manual_seed(derive_seed(seed, 0, "", "jitter")) for seed in (11, 12)]
    drawn = [torch.randn(2, 11, *SHAPE, generator=stream) for stream in streams]
    for row, place in enumerate(sample.tolist()):
        for draw, levels in enumerate(((0, 100), (0, 100, 200, 250))):
            x, before = torch.zeros(SHAPE), -1
            for step, level in enumerate(levels):
                lower, upper = torch.tensor([before]), torch.tensor([level])
                x = x * schedule.signal[level] / schedule.signal[max(before, 0)]
                x = x + jitter * deviation(schedule, lower, upper) * drawn[place][draw, step]
                before = level
            assert torch.allclose(found[row, draw], x / schedule.noise[levels[-1]], atol=1e-5)
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[0], found[2])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_gaps_on_a_path_are_those_of_the_noise_that_predictions_imply(kind: str) -> None:
    """The noise is worked out from the latents before the step, at the level that the walk read them at: one
    below the level told, and on the first step the least noisy one, of a flow clean latents."""
    torch.manual_seed(0)
    schedule = schedule_of(kind)
    levels, said = torch.tensor([[100, 400, 800]]), torch.randn(SHAPE)
    start, led = torch.randn(1, *SHAPE), torch.randn(1, 3, *SHAPE)
    draw = {"path_start": start, "path_led": led, "path_level": levels, "path_guidance": torch.ones(1)}
    draw["path_pick"] = torch.tensor([[2, 0, 1]])
    scored = score_path(saying(schedule, said), batch_of(0), draw, frozenset({"prediction"}))
    path = retrace(schedule, start, led, levels)

    def noise_of(x: Tensor, prediction: Tensor, step: int) -> Tensor:
        level = max(int(levels[0, step - 1]) if step else 0, 0)
        a, s = schedule.signal[level], schedule.noise[level]
        if kind == "flow":
            return x + (prediction if step == 0 else a * prediction)
        v = {
            "epsilon": prediction,
            "v_prediction": s * x + a * prediction,
            "sample": (x - a * prediction) / s,
        }
        return v[kind]

    assert scored.error is not None and scored.prediction is not None and scored.target is not None
    for place, step in enumerate((2, 0, 1)):
        gap = noise_of(path[0, step], said, step) - noise_of(path[0, step], led[0, step], step)
        wanted = float(gap.pow(2).mean())
        assert float(scored.error[0, place]) == pytest.approx(wanted, rel=1e-3)
        assert float(scored.values[0, place]) == pytest.approx(-wanted / 2, rel=1e-3)
        apart = scored.prediction[0, place] - scored.target[0, place]
        assert torch.allclose(apart.abs(), gap.abs(), rtol=1e-3, atol=1e-4)
