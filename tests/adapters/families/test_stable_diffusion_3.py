"""Stable Diffusion 3 and 3.5 in the diffusion adapter: a flow under two CLIP towers and T5."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import check_media_equal_upstreams, edit, edited, every_check, rebuilt
from adapters.family_subject import Subject, drawn, error, euler, flow_noise
from adapters.tiny_sd import prompt
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters._noise import TimestepRange
from mmalign.types import UserError


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """CLIP's layers before the last side by side, zeros to T5's width; then T5, its padding attended to."""
    states, pooled = [], []
    for name in ("", "_2"):
        tokenizer, tower = pipeline.components[f"tokenizer{name}"], pipeline.components[f"text_encoder{name}"]
        ids = tokenizer(caption, padding="max_length", max_length=77, return_tensors="pt").input_ids
        output = tower(ids, output_hidden_states=True)
        states.append(output.hidden_states[-2])
        pooled.append(output.text_embeds)
    ids = pipeline.tokenizer_3(caption, padding="max_length", max_length=256, return_tensors="pt").input_ids
    long = pipeline.text_encoder_3(ids)[0]
    clip = torch.cat(states, -1)
    clip = torch.nn.functional.pad(clip, (0, long.shape[-1] - clip.shape[-1]))
    return pipeline.transformer(
        hidden_states=noised,
        timestep=time.reshape(1),
        encoder_hidden_states=torch.cat([clip, long], 1),
        pooled_projections=torch.cat(pooled, -1),
    ).sample


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(
        "sd3",
        tiny.FAMILIES["sd3"](tmp_path_factory.mktemp("sd3") / "sd3", 0),
        predict,
        noise=flow_noise(3.0),
        scheduler=euler,
        unreached=("transformer_blocks.1.attn.add_q_proj",),  # of the last block, whose captions end there
        faults=(
            (edited("model_index.json", tokenizer_3=[None, None]), "tokenizer_3 must go together"),
            (
                rebuilt("transformer", joint_attention_dim=96),
                "transformer: joint_attention_dim must be 64, the width of text_encoder_3, got 96",
            ),
            (
                rebuilt("transformer", pooled_projection_dim=32),
                "transformer: pooled_projection_dim must be 64, the two CLIP towers' projections together",
            ),
            (rebuilt("transformer", in_channels=8), "transformer: in_channels 8 and out_channels 4"),
            (rebuilt("transformer", patch_size=4), "transformer: patch_size must be 2"),
        ),
    )


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_another_shift_moves_the_levels(subject: Subject) -> None:
    """At shift 3 the middle level is 3 * 0.5 / (1 + 2 * 0.5) = 0.75, unshifted 0.5."""
    for shift, middle in ((None, 0.75), (1.0, 0.5)):
        adapter = subject.adapter(timesteps=TimestepRange(shift=shift))
        assert adapter.num_noise_levels == 1000
        assert float(adapter._schedule.noise[499]) == pytest.approx(middle, abs=1e-6)
        assert float(adapter._schedule.time(torch.tensor([499]))) == pytest.approx(1000 * middle, abs=1e-3)


def test_a_side_beyond_its_table_of_places_is_refused(subject: Subject) -> None:
    """24 patches of 2 x 2 latents of 2 pixels: 96."""
    assert subject.adapter(resolution=96).resolution == 96
    with pytest.raises(UserError, match=r"^model\.resolution: .* places at most 96 pixels a side, got 100"):
        subject.adapter(resolution=100)
    assert len(subject.adapter(resolution=64, buckets="aspect")._buckets) > 1
    assert subject.adapter(resolution=96, buckets="aspect")._buckets == ((96, 96),)


def test_a_schedule_that_goes_by_size_is_sampled_so(subject: Subject, tmp_path: Path) -> None:
    """Upstream's own call is the judge; its levels are not those of the fixed shift."""
    folder = shutil.copytree(subject.folder, tmp_path / "moving")
    edit(folder / "scheduler/scheduler_config.json", use_dynamic_shifting=True)
    moving = dataclasses.replace(subject, folder=folder)
    check_media_equal_upstreams(moving, tmp_path)
    levels = []
    for one in (moving, subject):
        adapter = one.adapter(generation=Generation(steps=4, guidance=1.0))
        adapter.sample_pixels(adapter.policy, [prompt("a cat")], [1])
        levels.append(adapter._parts.pipeline.scheduler.sigmas.tolist())
    assert all(
        abs(first - second) > 0.01 for first, second in zip(*(one[1:3] for one in levels), strict=True)
    )


@torch.no_grad()
def test_without_t5_its_part_is_zeros(subject: Subject, tmp_path: Path) -> None:
    folder = shutil.copytree(subject.folder, tmp_path / "small")
    edit(folder / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    for name in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / name)
    adapter, whole = subject.adapter(folder), subject.adapter()
    batch, full = subject.case(adapter).batch(), subject.case(whole).batch()
    assert batch.inputs["states"].shape == full.inputs["states"].shape == (4, 77 + 256, 64)
    assert not bool(batch.inputs["states"][:, 77:].any())
    assert torch.equal(batch.inputs["states"][:, :77], full.inputs["states"][:, :77])
    pipeline = opened(folder)
    states, _, pooled, _ = pipeline.encode_prompt("a red cat", None, None, do_classifier_free_guidance=False)
    assert torch.allclose(batch.inputs["states"][:1], states, atol=1e-6)
    assert torch.allclose(batch.inputs["pooled"][:1], pooled, atol=1e-6)
    assert bool(torch.isfinite(error(adapter, batch, drawn(adapter, batch))).all())
    adapter.save(adapter.policy, tmp_path / "saved", None)
    assert opened(tmp_path / "saved").text_encoder_3 is None


def opened(folder: Path) -> Any:
    """Upstream wants to be told what is left out."""
    return StableDiffusion3Pipeline.from_pretrained(
        folder, local_files_only=True, text_encoder_3=None, tokenizer_3=None
    )
