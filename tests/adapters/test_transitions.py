"""Steps of sampling paths: worked densities, upstream's own step, sampling and scoring that agree."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from tiny_sd import prompt, save_pipeline
from torch import Tensor

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters._noise import Schedule
from mmalign.adapters._transitions import log_density, moments, refuse_flow
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import Part, Prepared, Row, UserError

CPU = torch.device("cpu")
PROMPTS = [prompt("red fox"), prompt("blue box"), prompt("a cat")]
NEEDS = frozenset({"ratio", "transition"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def adapter_of(folder: Path, steps: int = 6, batch: int = 8, eta: float | None = None) -> Denoiser:
    return Diffusion(
        str(folder), generation=Generation(steps=steps, guidance=3.0, batch=batch, eta=eta)
    ).build(CPU)


def prepared(name: str, **roles: dict[str, Tensor]) -> Prepared:
    return Prepared(name, tuple(Row(role, 0, dict(data)) for role, data in roles.items()), encoded=True)


def test_the_density_in_numbers() -> None:
    x, mean = torch.tensor([[0.1, -0.2]]), torch.tensor([[0.15, -0.1]])
    found = log_density(x, mean, torch.tensor([0.1]))
    assert float(found) == pytest.approx(1.0711466, abs=1e-6)


def scheduler_of(prediction: str, offset: int) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=offset,
    )


@pytest.mark.parametrize("eta", [0.4, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_mean_and_deviation_are_those_of_upstreams_step(prediction: str, eta: float) -> None:
    torch.manual_seed(0)
    upstream = scheduler_of(prediction, 1)
    upstream.set_timesteps(20)
    schedule = Schedule.of(upstream.alphas_cumprod, prediction, CPU)
    x, said = torch.randn(20, 4, 3, 3), torch.randn(20, 4, 3, 3)
    level = upstream.timesteps
    below = (level - 50).clamp(min=0)
    mean, spread = moments(schedule, said, x, level, below, torch.full((20,), eta))
    for k, t in enumerate(level):
        middle, moved = (
            upstream.step(said[k : k + 1], int(t), x[k : k + 1], eta=eta, variance_noise=noise).prev_sample
            for noise in (torch.zeros(1, 4, 3, 3), torch.ones(1, 4, 3, 3))
        )
        assert torch.allclose(mean[k : k + 1], middle, atol=2e-5, rtol=1e-4)
        assert float(spread[k]) == pytest.approx(float((moved - middle).mean()), rel=2e-3, abs=1e-5)


def test_a_step_that_draws_nothing_is_not_kept(folder: Path) -> None:
    adapter = adapter_of(folder)
    for offset, kept in ((1, 6), (0, 5)):
        adapter._parts.pipeline.scheduler.register_to_config(steps_offset=offset)
        (path,) = adapter.sample_paths(adapter.policy, PROMPTS[:1], [1])
        assert path.data["path"].shape[0] == kept + 1
        assert path.data["path_below"][-1] == (0 if offset else int(path.data["path_level"][-1]) - 166)


@pytest.mark.parametrize(("eta", "share"), [(None, 1.0), (0.4, 0.4)])
def test_scoring_repeats_the_densities_of_sampling(folder: Path, eta: float | None, share: float) -> None:
    """Of noise of share `generation.eta`, all of DDPM's where that is not given."""
    adapter = adapter_of(folder, eta=eta)
    paths = adapter.sample_paths(adapter.policy, PROMPTS, [1, 2, 3])
    rows = [prepared(f"s{i}", completion=dict(path.data)) for i, path in enumerate(paths)]
    batch = adapter.collate(rows, ["completion"])
    draw = adapter.draw(batch, [0, 0, 0])
    with torch.no_grad():
        scored = adapter.logprobs(adapter.policy, batch, draw, NEEDS)
    assert (scored.kind, scored.unit, scored.values.shape) == ("trajectory", "step", (3, 6))
    for i, path in enumerate(paths):
        # the noise of the walk: the first draw is the start, then one draw per step
        stream = torch.Generator().manual_seed(i + 1)
        start = torch.randn(path.data["path"].shape[1:], generator=stream)
        assert torch.equal(start, path.data["path"][0])
        for k in range(6):
            noise = torch.randn(start.shape, generator=stream)
            level, below = path.data["path_level"][k], path.data["path_below"][k]
            a, s = adapter._schedule.signal.double(), adapter._schedule.noise.double()
            spread = share * s[below] / s[level] * (1 - (a[level] / a[below]) ** 2).sqrt()
            wanted = -(noise.double() ** 2).mean() / 2 - spread.log() - 0.9189385332
            assert float(scored.values[i, k]) == pytest.approx(float(wanted), abs=2e-3)
    assert adapter.self_check(adapter.policy, batch, draw) < 1e-4


def test_a_path_depends_on_its_own_seed_alone(folder: Path) -> None:
    adapter = adapter_of(folder, batch=3)
    together = adapter.sample_paths(adapter.policy, PROMPTS, [5, 6, 7])
    adapter = adapter_of(folder, batch=1)
    alone = adapter.sample_paths(adapter.policy, PROMPTS, [5, 6, 7])
    for ours, theirs in zip(together, alone, strict=True):
        assert torch.allclose(ours.data["path"], theirs.data["path"], atol=1e-4)


def test_pieces_of_a_path_add_up(folder: Path) -> None:
    adapter = adapter_of(folder)
    paths = adapter.sample_paths(adapter.policy, PROMPTS[:2], [1, 2])
    batch = adapter.collate(
        [prepared("a", chosen=dict(paths[0].data), rejected=dict(paths[1].data))], ["chosen", "rejected"]
    )
    draw = adapter.draw(batch, [0])
    whole = adapter.logprobs(adapter.policy, batch, draw, NEEDS).values
    parts = [
        adapter.logprobs(adapter.policy, batch, {**draw, "path_pick": pick}, NEEDS).values
        for pick in draw["path_pick"].split(2, dim=1)
    ]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)


def test_the_gradient_raises_the_density_of_a_path(folder: Path) -> None:
    adapter = adapter_of(folder)
    (path,) = adapter.sample_paths(adapter.policy, PROMPTS[:1], [1])
    batch = adapter.collate([prepared("a", completion=dict(path.data))], ["completion"])
    draw = adapter.draw(batch, [0])
    before = adapter.logprobs(adapter.policy, batch, draw, NEEDS).total().sum()
    before.backward()
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in adapter.policy.parameters() if p.grad is not None]).norm()
        for parameter in adapter.policy.parameters():
            if parameter.grad is not None:
                parameter.add_(1e-3 * parameter.grad / norm)
    after = adapter.logprobs(adapter.policy, batch, draw, NEEDS).total().sum().detach()
    assert float(after - before.detach()) == pytest.approx(1e-3 * float(norm), rel=0.2)


def test_branches_start_from_one_picture_and_are_judged_by_what_they_predict(folder: Path) -> None:
    adapter = adapter_of(folder, steps=6, batch=2)
    seen: list[int] = []

    def judged(media: Sequence[Part], places: Sequence[int], level: int) -> list[float]:
        seen.extend(places)
        assert all(part.kind == "image" for part in media)
        return [float(sum(part.data.resize((1, 1)).getpixel((0, 0)))) for part in media]

    found = adapter.branch_paths(adapter.policy, PROMPTS, [1, 2, 3], (3, 2), judged)
    assert sorted(set(seen)) == [0, 1, 2] and len(seen) == 3 * 3 * 4
    for one in found:
        assert one.chosen["path"].shape == one.chosen["path_next"].shape == (4, 4, 16, 16)
        assert torch.equal(one.chosen["path"], one.rejected["path"])
        assert len(one.margins) == 4 and min(one.margins) >= 0 and max(one.margins) > 0
        differ = [
            not torch.equal(a, b)
            for a, b in zip(one.chosen["path_next"], one.rejected["path_next"], strict=True)
        ]
        assert differ == [margin > 0 for margin in one.margins]
    batch = adapter.collate(
        [prepared("a", chosen=dict(found[0].chosen), rejected=dict(found[0].rejected))],
        ["chosen", "rejected"],
    )
    scored = adapter.logprobs(adapter.policy, batch, adapter.draw(batch, [0]), NEEDS)
    assert scored.values.shape == (2, 4) and bool(torch.isfinite(scored.values).all())
    assert adapter.self_check(adapter.policy, batch, adapter.draw(batch, [0])) < 1e-4


def test_a_branch_without_a_verdict_is_on_neither_side(folder: Path) -> None:
    """Of three branches the first of prompt 0 has none, and only the last of prompt 1 has one."""
    adapter, given = adapter_of(folder, steps=4), list[list[float]]()

    def judged(media: Sequence[Part], places: Sequence[int], level: int) -> list[float]:
        scores = [float(sum(part.data.tobytes())) for part in media]
        given.append(scores)
        return scores if whole else [math.nan if i in (0, 3, 4) else one for i, one in enumerate(scores)]

    whole = True
    every = adapter.branch_paths(adapter.policy, PROMPTS, [1, 2, 3], (3, 2), judged)
    whole = False
    found = adapter.branch_paths(adapter.policy, PROMPTS, [1, 2, 3], (3, 2), judged)
    assert given[:2] == given[2:], "the same paths"
    assert found[0].margins == tuple(abs(own[1] - own[2]) for own in given[2:])
    assert found[1].margins == (0.0, 0.0) and min(every[1].margins) > 0
    assert found[2].margins == every[2].margins
    for side in ("chosen", "rejected"):
        again, before = (getattr(one[2], side)["path_next"] for one in (found, every))
        assert torch.equal(again, before)


def test_what_has_no_density_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="no transition density; needs an SDE sampler"):
        refuse_flow(True, False, "FluxPipeline")
    with pytest.raises(UserError, match="^model.generation.eta: without noise"):
        still = adapter_of(folder, eta=0.0)
        still.sample_paths(still.policy, PROMPTS[:1], [1])
    with pytest.raises(UserError, match="adds no noise"):
        refuse_flow(False, True, "CogVideoXPipeline")
    adapter = adapter_of(folder)
    with pytest.raises(UserError, match=r"online.unbranched: 9 steps before .* only 6"):
        adapter.branch_paths(
            adapter.policy, PROMPTS[:1], [1], (2, 9), lambda media, places, level: [0.0, 0.0]
        )
    adapter._parts.pipeline.scheduler.register_to_config(clip_sample=True)
    with pytest.raises(UserError, match="clip_sample cuts predictions"):
        adapter.sample_paths(adapter.policy, PROMPTS[:1], [1])
