"""Walking the sampler backwards: worked numbers, upstream's inverse scheduler, and paths retraced."""

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDPMScheduler

from mmalign.adapters._inversion import deviation, grid, levels_below, move, noise_scale, retrace, walk
from mmalign.adapters._noise import Schedule

CPU = torch.device("cpu")


def upstream(prediction: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    )


def levels_of(*abar: float) -> Schedule:
    return Schedule.of(torch.tensor(abar), "epsilon", CPU)


def test_one_step_in_numbers() -> None:
    moved = move(
        levels_of(0.9, 0.5), torch.tensor([[0.2]]), torch.tensor([[1.0]]), *map(torch.tensor, ([0], [1]))
    )
    assert float(moved) == pytest.approx(0.8396369, abs=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_walk_is_upstreams_inverse_sampling(prediction: str) -> None:
    torch.manual_seed(0)
    config = dict(upstream(prediction).config)
    inverse = DDIMInverseScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)
    inverse.set_timesteps(10)
    assert inverse.timesteps.tolist() == grid(1000, 10).tolist()
    x0, said = torch.randn(2, 4, 3, 3), torch.randn(10, 2, 4, 3, 3)
    x = x0
    for k, t in enumerate(inverse.timesteps):
        x = inverse.step(said[k], int(t), x).prev_sample
    schedule = Schedule.of(upstream().alphas_cumprod, prediction, CPU)
    path, led = walk(
        lambda x, level, rows: said[int(level[0]) // 100], schedule, x0, grid(1000, 10).expand(2, -1)
    )
    assert torch.allclose(path[:, -1], x, atol=2e-4)
    assert torch.equal(led, said.transpose(0, 1))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_path_follows_from_its_start_and_what_led_it(kind: str) -> None:
    torch.manual_seed(0)
    flow = Schedule.of_flow(torch.arange(1, 1001) / 1000, CPU)
    schedule = flow if kind == "flow" else Schedule.of(upstream().alphas_cumprod, kind, CPU)
    levels = grid(1000, 8).expand(2, -1)
    x0, said = torch.randn(2, 4, 5, 5), torch.randn(8, 2, 4, 5, 5)
    path, led = walk(lambda x, level, rows: said[int(level[0]) // 125], schedule, x0, levels)
    assert torch.equal(retrace(schedule, x0, led, levels), path)


def test_the_first_step_of_a_noise_schedule_changes_nothing() -> None:
    schedule = Schedule.of(upstream().alphas_cumprod, "epsilon", CPU)
    x = torch.randn(1, 4, 3, 3)
    moved = move(schedule, torch.randn_like(x), x, torch.tensor([-1]), torch.tensor([0]))
    assert torch.allclose(moved, x, atol=1e-6)


def test_a_straight_flow_is_walked_exactly() -> None:
    """Where every prediction is the true velocity, inversion arrives at (1 - s) x0 + s eps."""
    schedule = Schedule.of_flow(torch.arange(1, 1001) / 1000, CPU)
    x0, eps = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    path, _ = walk(lambda x, level, rows: eps - x0, schedule, x0, torch.tensor([[99, 499, 799]]))
    assert torch.allclose(path[:, -1], 0.2 * x0 + 0.8 * eps, atol=1e-5)


def test_walks_of_their_own_length_stop_where_they_end() -> None:
    levels = levels_below(grid(1000, 4), torch.tensor([0, 250, 600]))
    assert levels.tolist() == [[0, 0, 0, 0, 0], [0, 250, 250, 250, 250], [0, 250, 500, 600, 600]]
    schedule = Schedule.of(upstream().alphas_cumprod, "epsilon", CPU)
    asked: list[tuple[list[int], list[int]]] = []

    def predict(x: torch.Tensor, level: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        asked.append((level.tolist(), rows.tolist()))
        return 0.1 * x

    torch.manual_seed(0)
    x0 = torch.randn(3, 4, 3, 3)
    path, _ = walk(predict, schedule, x0, levels)
    assert asked == [([0, 0, 0], [0, 1, 2]), ([250, 250], [1, 2]), ([500], [2]), ([600], [2])]
    alone, _ = walk(predict, schedule, x0[1:2], levels[1:2])
    assert torch.allclose(path[1, -1], alone[0, -1])


def test_added_noise_has_ddpms_deviation() -> None:
    schedule = Schedule.of(upstream().alphas_cumprod, "epsilon", CPU)
    a, b = schedule.signal[400] ** 2, schedule.signal[500] ** 2
    wanted = ((1 - a) / (1 - b) * (1 - b / a)).sqrt()
    x0, ones = torch.zeros(1, 1, 1, 1), torch.ones(1, 2, 1, 1, 1)
    path, _ = walk(lambda x, level, rows: torch.zeros_like(x), schedule, x0, torch.tensor([[400, 500]]), ones)
    start = path[:, 1] * schedule.signal[500] / schedule.signal[400]
    assert float(path[:, 2] - start) == pytest.approx(float(wanted), abs=1e-6)


def test_the_deviation_in_numbers() -> None:
    both = torch.tensor([0]), torch.tensor([1])
    assert float(deviation(levels_of(0.8, 0.5), *both)) == pytest.approx(0.3872983, abs=1e-6)
    flow = Schedule.of_flow(torch.tensor([0.2, 0.5]), CPU)
    assert float(deviation(flow, *both)) == pytest.approx(0.1936492, abs=1e-6)


@pytest.mark.parametrize("kind", ["noise schedule", "flow"])
def test_the_deviation_is_that_of_a_level_given_the_next_and_the_clean_latents(kind: str) -> None:
    """Two normal statements about x at the lower level, whose precisions add: what the clean latents say of
    it, deviation s, and what the next level says, (a_t / a) x plus the noise between the two."""
    schedule = (
        Schedule.of_flow(torch.arange(1, 1001) / 1000, CPU)
        if kind == "flow"
        else Schedule.of(upstream().alphas_cumprod, "epsilon", CPU)
    )
    lower, upper = torch.tensor([0, 99, 399, 799]), torch.tensor([99, 199, 499, 899])
    a, s, a_t, s_t = (
        table[level].double() for level in (lower, upper) for table in (schedule.signal, schedule.noise)
    )
    ratio = a_t / a
    between = s_t**2 - ratio**2 * s**2
    wanted = (1 / (1 / s**2 + ratio**2 / between)).sqrt()
    assert torch.allclose(deviation(schedule, lower, upper).double(), wanted, rtol=1e-4)
    if kind == "flow":  # from clean latents, where nothing is left to draw
        assert float(deviation(schedule, torch.tensor([-1]), torch.tensor([99]))) == 0


def test_every_step_of_a_walk_adds_its_own_noise() -> None:
    schedule = Schedule.of(upstream().alphas_cumprod, "epsilon", CPU)
    x0, levels = torch.zeros(1, 1, 1, 1), torch.tensor([[100, 400, 500]])
    noise = torch.tensor([0.5, -2.0, 3.0]).reshape(1, 3, 1, 1, 1)
    path, _ = walk(lambda x, level, rows: torch.zeros_like(x), schedule, x0, levels, noise)
    before = -1
    for step, level in enumerate(levels[0].tolist()):
        a = float(schedule.signal[max(before, 0)])
        carried = path[0, step] * float(schedule.signal[level]) / a
        spread = float(deviation(schedule, torch.tensor([before]), torch.tensor([level])))
        assert float(path[0, step + 1] - carried) == pytest.approx(spread * float(noise[0, step]), abs=1e-6)
        before = level


def test_gaps_of_predictions_become_gaps_of_the_noise_they_imply() -> None:
    """At the level that the walk reads the latents at, which lies one step before the one that is told."""
    current = torch.tensor([-1, 400])
    levels = upstream().alphas_cumprod
    for prediction, wanted in (
        ("epsilon", [1.0, 1.0]),
        ("v_prediction", [float(levels[0]), float(levels[400])]),
    ):
        found = noise_scale(Schedule.of(levels, prediction, CPU), current)
        assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    flow = Schedule.of_flow(torch.arange(1, 1001) / 1000, CPU)
    assert noise_scale(flow, current).tolist() == pytest.approx([1.0, (1 - 0.401) ** 2], rel=1e-5)
