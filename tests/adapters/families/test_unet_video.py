"""AnimateDiff and ModelScope in the diffusion adapter: UNets over clips encoded frame by frame."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import edited, every_check
from adapters.family_subject import ROLES, Subject
from adapters.tiny_sd import prompt
from torch import Tensor

from mmalign.adapters._latent_sampling import Generation
from mmalign.types import Frames, Part, Prepared, Row, UserError

NAMES = ("animatediff", "modelscope")


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """The tower's last states; AnimateDiff is told them once for every frame."""
    ids = pipeline.tokenizer(caption, padding="max_length", max_length=77, return_tensors="pt").input_ids
    states = pipeline.text_encoder(ids)[0]
    if type(pipeline.unet).__name__ == "UNetMotionModel":
        states = states.expand(noised.shape[2], -1, -1)
    return pipeline.unet(noised, time, encoder_hidden_states=states).sample


def frame_latents(pipeline: Any, pixels: Tensor, noise: Tensor) -> Tensor:
    """Of a clip [1, 3, F, R, R] in -1..1, picture by picture."""
    one_by_one = []
    for i in range(pixels.shape[2]):
        found = pipeline.vae.encode(pixels[:, :, i]).latent_dist
        one_by_one.append((found.mean + found.std * noise[:, :, i]) * 0.18215)
    return torch.stack(one_by_one, 2)


@pytest.fixture(scope="module", params=NAMES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name = str(request.param)
    return Subject(
        name,
        tiny.FAMILIES[name](tmp_path_factory.mktemp(name) / name, 0),
        predict,
        latents=frame_latents,
        faults=((edited("unet/config.json", cross_attention_dim=16), "unet: "),),
    )


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_more_frames_than_motion_modules_place_are_refused(subject: Subject) -> None:
    if subject.name == "modelscope":  # its attention over time has no places
        assert subject.adapter(frames=Frames(count=40)).num_frames == 40
        return
    assert subject.adapter(frames=Frames(count=32)).num_frames == 32
    with pytest.raises(UserError, match=r"^model\.frames\.count: .* at most 32, got 33"):
        subject.adapter(frames=Frames(count=33))


def test_the_adapter_that_went_into_the_unet_is_not_saved(subject: Subject, tmp_path: Path) -> None:
    """It would hold the motion modules as they were before training."""
    adapter = subject.adapter()
    adapter.save(adapter.policy, tmp_path / "saved", None)
    assert not (tmp_path / "saved" / "motion_adapter").exists()
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    if subject.name == "animatediff":
        assert (subject.folder / "motion_adapter").is_dir() and index["motion_adapter"] == [None, None]
        again = subject.pipeline(tmp_path / "saved")
        assert again.motion_adapter is None and type(again.unet).__name__ == "UNetMotionModel"


def rows_of(name: str, **roles: dict[str, Tensor]) -> Prepared:
    return Prepared(name, tuple(Row(role, 0, dict(data)) for role, data in roles.items()), encoded=True)


@pytest.mark.parametrize("count", [1, 3])
def test_paths_of_clips_are_sampled_and_scored(subject: Subject, count: int) -> None:
    adapter = subject.adapter(generation=Generation(steps=4, guidance=2.0))
    paths = adapter.sample_paths(adapter.policy, [prompt(f"cat {i}") for i in range(count)], range(count))
    kept = 3 if subject.name == "animatediff" else 4  # its timesteps end at level 0, which draws nothing
    assert all(path.response.kind == "video" and len(path.response.data.frames) == 4 for path in paths)
    assert all(path.data["path"].shape == (kept + 1, *subject.size.latents) for path in paths)
    batch = adapter.collate(
        [rows_of(f"s{i}", completion=path.data) for i, path in enumerate(paths)], ["completion"]
    )
    draw = adapter.draw(batch, range(count))
    assert adapter.self_check(adapter.policy, batch, draw) < 1e-3
    scored = adapter.logprobs(adapter.policy, batch, draw, frozenset({"transition"}))
    assert scored.values.shape == (count, kept)
    before = scored.total().sum()
    before.backward()
    for parameter in adapter.policy.parameters():
        if parameter.grad is not None:
            parameter.data += 1e-3 * parameter.grad / parameter.grad.norm().clamp(min=1e-6)
    with torch.no_grad():
        after = adapter.logprobs(adapter.policy, batch, draw, frozenset({"transition"}))
    assert float(after.total().sum()) > float(before.detach())


def test_paths_of_clips_branch(subject: Subject) -> None:
    adapter = subject.adapter(generation=Generation(steps=4, guidance=2.0))

    def judged(media: Sequence[Part], places: Sequence[int], level: int) -> list[float]:
        assert all(part.kind == "video" for part in media)
        return [float(part.data.frames.float().mean()) for part in media]

    found = adapter.branch_paths(
        adapter.policy, [prompt(text) for text in ("cat", "dog", "")], [1, 2, 3], (3, 1), judged
    )
    for one in found:
        assert one.chosen["path"].shape == one.chosen["path_next"].shape
        assert one.chosen["path"].shape[1:] == subject.size.latents
        assert len(one.margins) == len(one.chosen["path"]) and max(one.margins) > 0
    batch = adapter.collate([rows_of("a", chosen=found[0].chosen, rejected=found[0].rejected)], list(ROLES))
    draw = adapter.draw(batch, [0])
    assert adapter.self_check(adapter.policy, batch, draw) < 1e-3
    scored = adapter.logprobs(adapter.policy, batch, draw, frozenset({"transition"}))
    assert bool(torch.isfinite(scored.values).all())
