"""Noise levels, targets, weights and errors, against published numbers and upstream's scheduler."""

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler

from mmalign.adapters._noise import (
    ErrorSpace,
    Schedule,
    TimestepRange,
    draw_one,
    mean_error,
    min_snr_weight,
)
from mmalign.types import LogProbs

CPU = torch.device("cpu")


def uniform(low: int, high: int) -> Callable[[int, torch.Generator], torch.Tensor]:
    return lambda count, stream: TimestepRange().sample(count, (low, high), stream)


def upstream(prediction: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    )


def schedule(prediction: str = "epsilon") -> Schedule:
    return Schedule.of(upstream().alphas_cumprod, prediction, CPU)


def at(abar: float, prediction: str) -> Schedule:
    """A schedule of one level, in float64."""
    level = torch.tensor([abar], dtype=torch.float64)
    return Schedule(level.sqrt(), (1 - level).sqrt(), prediction)


@pytest.mark.parametrize(
    ("timestep", "snr"), [(0, 1175), (100, 8.45), (250, 2.07), (500, 0.382), (750, 0.0595), (999, 0.00468)]
)
def test_snr_of_the_stable_diffusion_schedule(timestep: int, snr: float) -> None:
    assert float(schedule().snr(torch.tensor([timestep]))) == pytest.approx(snr, rel=5e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 5), (3, 4, 2, 5, 5)])
def test_noising_and_targets_equal_upstreams(prediction: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x0, eps, t = torch.randn(shape), torch.randn(shape), torch.tensor([0, 417, 999])
    ours, theirs = schedule(prediction), upstream(prediction)
    assert torch.equal(ours.noised(x0, eps, t), theirs.add_noise(x0, eps, t))
    target = eps if prediction == "epsilon" else theirs.get_velocity(x0, eps, t)
    assert torch.equal(ours.target(x0, eps, t), target)


def test_velocity_errors_convert_to_noise_and_picture_errors() -> None:
    torch.manual_seed(0)
    levels, t = at(0.3, "v_prediction"), torch.tensor([0])
    x0, eps, v_hat = (torch.randn(1, 4, 6, 6, dtype=torch.float64) for _ in range(3))
    x_t, a, s = levels.noised(x0, eps, t), math.sqrt(0.3), math.sqrt(0.7)

    def error(prediction: torch.Tensor, target: torch.Tensor) -> float:
        return float((prediction - target).pow(2).mean())

    v_error = error(v_hat, levels.target(x0, eps, t))
    assert error(s * x_t + a * v_hat, eps) / v_error == pytest.approx(0.3, abs=1e-12)
    assert error(a * x_t - s * v_hat, x0) / v_error == pytest.approx(0.7, abs=1e-12)


def test_min_snr_weights() -> None:
    snr = torch.tensor([0.2, 5.0, 20.0])
    weights = min_snr_weight(snr, "epsilon", 5.0)
    assert weights.tolist() == pytest.approx([1, 1, 0.25])
    expected = [0.166667, 0.833333, 0.238095]
    assert min_snr_weight(snr, "v_prediction", 5.0).tolist() == pytest.approx(expected, abs=1e-6)
    assert float((weights * torch.tensor([0.1, 0.2, 0.3])).mean()) == pytest.approx(0.125)


def test_min_snr_weights_are_finite_at_both_ends_of_a_schedule_that_ends_in_noise() -> None:
    ends_in_noise = DDPMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    rescaled = Schedule.of(ends_in_noise.alphas_cumprod, "epsilon", CPU)
    ends = torch.tensor([0, 999])
    assert float(rescaled.snr(ends)[1]) < 1e-6
    weights = rescaled.weight(ends, "min_snr", 5.0)
    assert bool(torch.isfinite(weights).all())
    assert float(weights[1]) == 1.0
    assert schedule().weight(ends, "none", 5.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("space", ["epsilon", "velocity", "sample"])
def test_min_snr_counts_an_error_alike_in_every_space(prediction: str, space: ErrorSpace) -> None:
    """abar 0.3 with gamma 5: SNR 3/7 is below gamma, and weight times error is SNR times that of clean
    latents, SNR s^2 = a^2 = 0.3 times the velocity's."""
    level, zero = at(0.3, prediction), torch.tensor([0])
    velocity = {"epsilon": 0.3, "v_prediction": 1.0, "sample": 0.7}[prediction]  # of an error of 1 in it
    weighted = level.weight(zero, "min_snr", 5.0, space) * level.rescaling(zero, space) * velocity
    assert float(weighted) == pytest.approx(0.3)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 4, 3, 8, 8)])
def test_error_is_the_mean_over_all_but_the_first_dimension(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(shape), torch.randn(shape)
    expected = [float(torch.nn.functional.mse_loss(x, y)) for x, y in zip(a, b, strict=True)]
    assert mean_error(a, b).tolist() == pytest.approx(expected, rel=1e-6)


def test_error_of_half_precision_predictions_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 4, 16, 16).bfloat16(), torch.randn(2, 4, 16, 16)
    error = mean_error(prediction, target)
    assert error.dtype == torch.float32
    exact = (prediction.double() - target.double()).pow(2).flatten(1).mean(1)
    assert float((error - exact).abs().max()) < 1e-6
    rounded = (prediction - target.bfloat16()).pow(2).flatten(1).mean(1)
    assert float((rounded - exact).abs().max()) > 1e-4


def test_margin_of_surrogates_is_diffusion_dpo() -> None:
    def scored(*errors: float) -> LogProbs:
        error = torch.tensor(errors, dtype=torch.float64)[:, None]
        rows = torch.arange(len(errors))
        mask = torch.ones_like(error, dtype=torch.bool)
        return LogProbs(-0.5 * error, mask, "surrogate", "draw", rows, torch.zeros_like(rows), error=error)

    chosen = scored(0.1, 0.2).ratio(scored(0.11, 0.195))
    rejected = scored(0.12, 0.17).ratio(scored(0.115, 0.168))
    assert (500 * (chosen - rejected)).tolist() == pytest.approx([3.75, -0.75])
    loss = -torch.nn.functional.logsigmoid(5000 * (chosen - rejected)).mean()
    assert float(loss) == pytest.approx(3.7502765, abs=1e-7)


def test_timesteps_stay_in_their_range_and_reach_its_ends() -> None:
    low, high = TimestepRange(0.2, 0.21).bounds(1000)
    assert (low, high) == (200, 210)
    drawn = {int(draw_one(i, (1, 1, 1), uniform(low, high), 1, 0, 0)["timestep"]) for i in range(300)}
    assert drawn == set(range(200, 210))
    assert TimestepRange().bounds(1000) == (0, 1000)
    assert TimestepRange(0.9999, 1.0).bounds(1000) == (999, 1000)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (-0.1, 1), (0, 1.1), (0.9, 0.1)])
def test_impossible_ranges_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="timesteps: needs"):
        TimestepRange(low, high)


def test_a_setting_leaves_the_other_draws_as_they_were() -> None:
    plain = draw_one(7, (4, 8, 8), uniform(0, 1000), 2, 0.0, 0.0)
    offset = draw_one(7, (4, 8, 8), uniform(0, 1000), 2, 0.999, 0.1)
    assert not bool(plain["drop"]) and bool(offset["drop"])
    for name in ("timestep", "latent_noise"):
        assert torch.equal(plain[name], offset[name])
    shift = offset["noise"] - plain["noise"]
    assert float(shift.flatten(2).std(-1).max()) < 1e-6  # the same everywhere within a channel
    assert len({round(float(x), 6) for x in shift[..., 0, 0].flatten()}) == 8  # another for each


def test_caption_dropout_happens_as_often_as_asked() -> None:
    dropped = sum(bool(draw_one(i, (1, 1, 1), uniform(0, 10), 1, 0.2, 0)["drop"]) for i in range(2000))
    assert dropped / 2000 == pytest.approx(0.2, abs=0.03)  # over three standard deviations


def test_what_two_schedules_have_otherwise_is_told() -> None:
    """Schedules of the same numbers in another precision are one; each difference has its own words."""
    cpu, abar = torch.device("cpu"), torch.linspace(0.99, 0.01, 10, dtype=torch.float64)
    ours = Schedule.of(abar, "epsilon", cpu)
    assert ours.difference(Schedule.of(abar.float(), "epsilon", cpu)) is None
    other = [Schedule.of(abar, "sample", cpu), Schedule.of(abar[:5], "epsilon", cpu)]
    last = torch.zeros(10).index_fill(0, torch.tensor([9]), 0.005)
    other += [Schedule.of(abar - last, "epsilon", cpu), Schedule(ours.signal, ours.noise - last, "epsilon")]
    assert [ours.difference(one) for one in other] == [
        "it predicts sample, the policy epsilon",
        "it has 5 noise levels, the policy 10",
        "its noise levels have another signal, 0.07071 at level 9, the policy's 0.1",
        "its noise levels have another noise, 0.99 at level 9, the policy's 0.995",
    ]
    sigmas = torch.tensor([0.25, 0.5, 1.0])
    flow = Schedule.of_flow(sigmas, cpu)
    assert flow.difference(Schedule.of_flow(sigmas.flip(0), cpu)) is None
    found = flow.difference(Schedule.of_flow(sigmas**2, cpu))
    assert found is not None and found.endswith("the policy's 0.5 (model.timesteps.shift sets both)")
