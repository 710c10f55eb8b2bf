"""What flows are told of the noise level: by the schedule's number of levels, rounded as upstream does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import edit
from adapters.family_subject import Subject, drawn, euler
from diffusers import DiffusionPipeline
from torch import Tensor

from mmalign.adapters._latent_sampling import Generation
from mmalign.types import Rollout

LEVELS = 500  # of training, where these families are published with 1000
FLOWS = ("sd3", "flux", "sana", "wan", "ltx_video")


@pytest.fixture(scope="module", params=FLOWS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A flow that was trained on another number of levels."""
    name = str(request.param)
    folder = tiny.FAMILIES[name](tmp_path_factory.mktemp(name) / name, 0)
    edit(folder / "scheduler" / "scheduler_config.json", num_train_timesteps=LEVELS)
    return Subject(name, folder, predict=None, scheduler=euler)  # type: ignore[arg-type]


def upstream_times(pipeline: DiffusionPipeline, name: str, steps: int = 3, **changes: Any) -> list[Tensor]:
    """The time that the pipeline's own call tells its denoiser in every step."""
    with tiny.recorded(tiny.denoiser(pipeline)) as calls, torch.no_grad():
        tiny.sample(pipeline, name, "a red cat", steps=steps, guidance_scale=1.0, **changes)
    return [call.inputs["timestep"] for call in calls]


@torch.no_grad()
def test_the_time_is_upstreams_share_of_the_levels(subject: Subject) -> None:
    """Upstream's call and a scored pair tell the same multiple of the share of noise."""
    pipeline = subject.pipeline()
    pipeline.scheduler = subject.scheduler(pipeline)
    theirs = upstream_times(pipeline, subject.name)
    shares = pipeline.scheduler.sigmas[:-1]
    factor = float(theirs[0].flatten()[0] / shares[0])
    assert [float(t.flatten()[0]) for t in theirs] == pytest.approx((factor * shares).tolist(), rel=1e-5)

    adapter = subject.adapter()
    assert adapter.num_noise_levels == LEVELS
    batch = subject.case(adapter).batch()
    draw = drawn(adapter, batch, timestep=torch.tensor([[70], [450]]))
    with tiny.recorded(adapter.policy) as calls:
        scored = adapter.logprobs(adapter.policy, batch, draw, frozenset())
    assert scored.timestep is not None
    ours = calls[0].inputs["timestep"]
    assert torch.allclose(ours, factor * scored.timestep.flatten(), rtol=1e-5)
    assert adapter.self_check(adapter.policy, batch, draw) < 1e-5


@torch.no_grad()
def test_clean_latents_are_foreseen_by_the_share_of_noise(subject: Subject) -> None:
    """After one step from noise alone the picture is what the prediction there implies."""
    if subject.size.frames is not None:
        pytest.skip("rewards are of pictures")
    adapter = subject.adapter()
    batch = subject.case(adapter).batch()
    made, foreseen = (
        adapter.roll_out(adapter.policy, batch, Rollout(1, (0, 0), predict=predict, guidance=1.0), [1, 2])
        for predict in (False, True)
    )
    assert float(made.std()) > 0.01
    assert torch.allclose(made, foreseen, atol=1e-4)


def rounded(time: Tensor) -> Tensor:
    return time.to(torch.bfloat16) / 1000


@pytest.mark.parametrize("name", ["flux", "flux_schnell"])
@torch.no_grad()
def test_flux_is_told_the_time_in_half_precision_as_upstream_tells_it(tmp_path: Path, name: str) -> None:
    """Step by step to the bit, and the same at a level that training draws."""
    folder = tiny.FAMILIES[name](tmp_path / name, 0)
    pipeline = tiny.load(folder).to(torch.bfloat16)
    pipeline.scheduler = euler(pipeline)
    steps = 40
    theirs = upstream_times(pipeline, name, steps, max_sequence_length=16)
    assert all(time.dtype == torch.bfloat16 for time in theirs)
    plain = Subject(name, folder, predict=None)  # type: ignore[arg-type]
    adapter = plain.adapter(dtype="bfloat16", generation=Generation(steps=steps, guidance=1.0))
    with tiny.recorded(adapter.policy) as calls:
        adapter.sample_pixels(adapter.policy, [plain.pairs(1)[0].examples["chosen"][0].prompt], [1])
    ours = [call.inputs["timestep"] for call in calls]
    assert len(ours) == len(theirs) == steps
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    batch = plain.case(adapter).batch()
    draw = drawn(adapter, batch, timestep=torch.tensor([[302], [899]]))
    with tiny.recorded(adapter.policy) as calls:
        adapter.logprobs(adapter.policy, batch, draw, frozenset())
    expected = rounded(adapter._schedule.time(draw["timestep"].flatten()))
    assert torch.equal(calls[0].inputs["timestep"], expected[batch.row_sample])


def test_the_order_of_rounding_matters() -> None:
    """Dividing first gives other numbers for some levels of 1000, so that the test above can fail."""
    levels = torch.arange(1.0, 1001.0)
    first = (levels / 1000).to(torch.bfloat16)
    assert 0 < int((rounded(levels) != first).sum()) < 1000
