"""Sana in the diffusion adapter: a flow under an instructed decoder, latents without a distribution."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import edit, edited, every_check, rebuilt
from adapters.family_subject import ROLES, STEPS, Subject, drawn, error, flow_noise
from adapters.tiny_sd import prompt
from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline
from torch import Tensor

from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters._noise import TimestepRange
from mmalign.types import UserError

INSTRUCTION = "\n".join(
    inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
)


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """The instruction and the caption fill up to the instruction's tokens and 298; all but the start and the
    last 299 states are forgotten."""
    tokenizer = pipeline.tokenizer
    ids = tokenizer(INSTRUCTION + caption).input_ids
    length = len(tokenizer(INSTRUCTION).input_ids) + 298
    filled = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids))])
    mask = (torch.arange(length) < len(ids)).long()[None]
    states = pipeline.text_encoder(filled, attention_mask=mask)[0]
    kept = [0, *range(length - 299, length)]
    return pipeline.transformer(
        noised,
        encoder_hidden_states=states[:, kept],
        encoder_attention_mask=mask[:, kept],
        timestep=time.reshape(1),
    ).sample


def latents(pipeline: Any, pixels: Tensor, noise: Tensor) -> Tensor:
    """The autoencoder's own, scaled; there is nothing to draw."""
    return pipeline.vae.encode(pixels).latent * 0.41407


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(
        "sana",
        tiny.FAMILIES["sana"](tmp_path_factory.mktemp("sana") / "sana", 0),
        predict,
        noise=flow_noise(3.0),
        latents=latents,
        scheduler=lambda pipeline: FlowMatchEulerDiscreteScheduler(shift=3.0),
        call=lambda guidance: {"guidance_scale": guidance, "sigmas": np.linspace(1, 1 / STEPS, STEPS)},
        faults=(
            (rebuilt("transformer", patch_size=2), "transformer: patch_size must be 1"),
            (rebuilt("transformer", out_channels=8), "transformer: in_channels 4 and out_channels 8"),
            (
                rebuilt("transformer", caption_channels=64),
                "transformer: caption_channels must be 32, the width of text_encoder, got 64",
            ),
            (rebuilt("transformer", guidance_embeds=True), "transformer: guidance_embeds must be False"),
            (
                edited("scheduler/scheduler_config.json", use_flow_sigmas=False),
                "DPMSolverMultistepScheduler .*is not taken; a SanaPipeline is a flow",
            ),
        ),
    )


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_only_captions_follow_the_instruction(subject: Subject) -> None:
    """Upstream's own encoding of both, and the empty one keeps its start alone."""
    adapter, pipeline = subject.adapter(), subject.pipeline()
    with torch.no_grad():
        states, mask, empty, empty_mask = pipeline.encode_prompt(
            "A Red CAT", complex_human_instruction=INSTRUCTION.split("\n")
        )
    ours = adapter._captions.conditions(["A Red CAT"])[0]
    for mine, theirs in ((ours, (states, mask)), (adapter._captions.empty, (empty, empty_mask))):
        assert torch.allclose(mine["states"], theirs[0][0], atol=1e-6)
        assert torch.equal(mine["mask"], theirs[1][0])
    assert adapter._captions.empty["mask"].tolist() == [1] + [0] * 299
    assert not torch.equal(adapter._captions.conditions([""])[0]["states"], empty[0])


@torch.no_grad()
def test_captions_beyond_the_states_kept_are_counted(subject: Subject) -> None:
    """A start and at most 299 tokens; what follows is not seen."""
    captions = subject.adapter()._captions
    for words, unseen in ((297, False), (299, True)):
        ends = ["at" + " cat" * (words - 1) + f" {last}" for last in ("cat", "dog")]
        assert [captions.too_long(caption) for caption in ends] == [unseen, unseen]
        first, second = (one["states"] for one in captions.conditions(ends))
        assert torch.equal(first, second) is unseen


def test_the_side_of_padding_is_saved_as_it_was(subject: Subject, tmp_path: Path) -> None:
    """Upstream turns it to the right at every caption."""
    folder = tiny.FAMILIES["sana"](tmp_path / "left", 0)
    edit(folder / "tokenizer" / "tokenizer_config.json", padding_side="left")
    adapter = subject.adapter(folder)
    assert adapter._captions.conditions(["a cat"])[0]["mask"][0] == 1
    adapter.save(adapter.policy, tmp_path / "saved", None)
    saved = json.loads((tmp_path / "saved" / "tokenizer" / "tokenizer_config.json").read_text())
    assert saved["padding_side"] == "left"


@torch.no_grad()
def test_weights_in_shards_of_a_variant_are_read(subject: Subject, tmp_path: Path) -> None:
    """As they are published: every file of weights carries the variant, and so does each index."""
    subject.pipeline().save_pretrained(tmp_path / "split", variant="bf16", max_shard_size="40KB")
    assert (tmp_path / "split/text_encoder/model.safetensors.index.bf16.json").is_file()
    split, whole = subject.adapter(tmp_path / "split", variant="bf16"), subject.adapter()
    batch = subject.case(split).batch()
    draw = drawn(whole, batch)
    assert torch.equal(error(split, batch, draw), error(whole, subject.case(whole).batch(), draw))
    (tmp_path / "split/text_encoder/model.bf16-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"index\.bf16\.json: weight_map names .*00002.*, which is missing"):
        subject.adapter(tmp_path / "split", variant="bf16")


def test_latents_have_no_variance(subject: Subject) -> None:
    """Neither as encoded nor as what a cache may hold of a picture."""
    adapter = subject.adapter()
    prepared = adapter.prepare(subject.pairs(1)[0], ROLES)
    (encoded,) = adapter.encode([prepared])
    assert encoded.rows[0].data["mean"].shape == (4, 16, 16) and "logvar" not in encoded.rows[0].data
    assert set(prepared.rows[0].shares.values()) == {("mean",), ("states", "mask")}


def test_another_shift_moves_the_levels(subject: Subject) -> None:
    """At the published shift 3 the middle level is 3 * 0.5 / (1 + 2 * 0.5) = 0.75, unshifted 0.5."""
    for shift, middle in ((None, 0.75), (1.0, 0.5)):
        adapter = subject.adapter(timesteps=TimestepRange(shift=shift))
        assert float(adapter._schedule.time(torch.tensor([499]))) == pytest.approx(1000 * middle, abs=1e-3)


@torch.no_grad()
def test_samples_are_made_at_the_levels_of_the_solver(subject: Subject) -> None:
    """Those of the published solver, within the thousandth that it rounds down to and begins at."""
    adapter, pipeline = subject.adapter(generation=Generation(steps=4, guidance=1.0)), subject.pipeline()
    with tiny.recorded(adapter.policy) as ours:
        adapter.sample_pixels(adapter.policy, [prompt("cat")], [1])
    with tiny.recorded(pipeline.transformer) as theirs:
        tiny.sample(pipeline, "sana", "cat", steps=4, guidance_scale=1.0)
    mine, other = ([float(call.inputs["timestep"][0]) for call in calls] for calls in (ours, theirs))
    assert mine == pytest.approx([1000, 900, 750, 500], abs=1e-3)
    assert mine == pytest.approx(other, abs=1.01)


@torch.no_grad()
def test_a_scaled_time_is_told(subject: Subject, tmp_path: Path) -> None:
    """The denoiser's config may say that it counts noise in other units."""
    folder = tiny.FAMILIES["sana"](tmp_path / "scaled", 0)
    edit(folder / "transformer" / "config.json", timestep_scale=0.001)
    plain, scaled = subject.adapter(), subject.adapter(folder)
    batch = subject.case(plain).batch()
    draw = drawn(plain, batch)
    with tiny.recorded(plain.policy) as first, tiny.recorded(scaled.policy) as second:
        assert not torch.equal(error(plain, batch, draw), error(scaled, batch, draw))
    assert torch.allclose(first[0].inputs["timestep"] / 1000, second[0].inputs["timestep"])
