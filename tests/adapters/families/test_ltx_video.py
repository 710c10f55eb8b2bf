"""LTX-Video in the diffusion adapter: packed clips, rotary places in seconds, a decoder told a level."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import edited, every_check
from adapters.family_subject import ROLES, Subject, drawn, error, euler, flow_noise
from adapters.tiny_sd import prompt
from diffusers import AutoencoderKLLTXVideo
from torch import Tensor

from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters.families._flow import even_grid, shift_of
from mmalign.adapters.families.ltx_video import FAMILY
from mmalign.types import Clip, Example, Frames, Part, PreferenceSample, UserError


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """T5 without its mask, attended under it; clips at 8 frames per second, 4 frames and pixels a latent."""
    text = pipeline.tokenizer(caption, padding="max_length", max_length=128, return_tensors="pt")
    frames, height, width = noised.shape[2:]
    answer = pipeline.transformer(
        hidden_states=noised.flatten(2).transpose(1, 2),
        encoder_hidden_states=pipeline.text_encoder(text.input_ids)[0],
        timestep=time.reshape(1),
        encoder_attention_mask=text.attention_mask.bool(),
        num_frames=frames,
        height=height,
        width=width,
        rope_interpolation_scale=(4 / 8, 4, 4),
    ).sample
    return answer.transpose(1, 2).reshape(noised.shape)


def latents(pipeline: Any, pixels: Tensor, noise: Tensor) -> Tensor:
    """Mean from -0.5 to 0.5 and deviation from 0.5 to 1.5 over the eight channels."""
    found = pipeline.vae.encode(pixels).latent_dist
    mean, deviation = (torch.linspace(*ends, 8).reshape(1, 8, 1, 1, 1) for ends in ((-0.5, 0.5), (0.5, 1.5)))
    return (found.mean + found.std * noise - mean) / deviation


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    transformer = "transformer/config.json"
    return Subject(
        "ltx_video",
        tiny.FAMILIES["ltx_video"](tmp_path_factory.mktemp("ltx") / "ltx", 0),
        predict,
        noise=flow_noise(1.0),
        latents=latents,
        scheduler=euler,
        pack=lambda x: x.flatten(2).transpose(1, 2),
        faults=(
            (edited(transformer, patch_size_t=2), "transformer: "),
            (edited("text_encoder/config.json", d_model=64), "text_encoder: "),
        ),
    )


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_the_sampler_shifts_by_the_number_of_latents(subject: Subject) -> None:
    """192 of them: mu = 0.95 - 832 * 1.1 / 3072; the last level is stretched to 0.1."""
    scheduler = subject.pipeline().scheduler
    assert shift_of(scheduler, 192) == pytest.approx(0.95 - 832 * 1.1 / 3072)
    even_grid(scheduler, 4, 192)
    assert scheduler.sigmas.tolist() == pytest.approx([1.0, 0.7816, 0.4945, 0.1, 0.0], abs=1e-4)


def at_rates(subject: Subject, *rates: float) -> PreferenceSample:
    """A pair of one and the same clip, its sides at these frames per second."""
    examples = {}
    for role, rate in zip(ROLES, rates, strict=True):
        example = subject.pairs()[0].examples["chosen"][0]
        clip: Clip = example.response[0].data
        times = tuple(i / rate for i in range(len(clip.frames)))
        part = Part("video", dataclasses.replace(clip, rate=rate, seconds=times))
        examples[role] = (Example(example.prompt, (part,)),)
    return PreferenceSample("pair", examples)


@torch.no_grad()
def test_every_side_is_told_its_own_rate(subject: Subject) -> None:
    adapter = subject.adapter()

    def both(*rates: float) -> list[float]:
        prepared = adapter.prepare(at_rates(subject, *rates), ROLES)
        assert [float(row.data["scale"][0]) for row in prepared.rows] == pytest.approx([4 / r for r in rates])
        batch = adapter.collate(adapter.encode([prepared]), ROLES)
        return error(adapter, batch, drawn(adapter, batch)).flatten().tolist()

    same, other = both(8.0, 8.0), both(8.0, 25.0)
    assert same[0] == pytest.approx(same[1], abs=1e-7) and same[0] == pytest.approx(other[0], abs=1e-7)
    assert abs(other[1] - other[0]) > 1e-5


@torch.no_grad()
def test_sampled_clips_are_told_the_rate_that_clips_are_cut_at(subject: Subject) -> None:
    for frames, rate in ((Frames("leading", 9, 8.0), 8.0), (Frames("uniform", 9), 25.0)):
        adapter = subject.adapter(frames=frames, generation=Generation(steps=2, guidance=1.0))
        with tiny.recorded(adapter.policy) as calls:
            (part,) = adapter.generate(adapter.policy, [prompt("a cat")], [1])
        assert len(calls) == 2
        assert float(calls[0].inputs["rope_interpolation_scale"][0]) == pytest.approx(4 / rate)
        assert part.data.rate == part.data.sampled_rate == rate


def test_one_step_is_refused(subject: Subject) -> None:
    """The first level is 1 and the last one 0.1."""
    adapter = subject.adapter(generation=Generation(steps=1))
    with pytest.raises(UserError, match=r"^model\.generation\.steps: must be 2 or more"):
        adapter.generate(adapter.policy, [prompt("a cat")], [1])


def test_rates_are_part_of_what_the_cache_is_named_by(subject: Subject) -> None:
    rows = subject.adapter().prepare(at_rates(subject, 8.0, 25.0), ROLES).rows
    assert rows[0].key != rows[1].key
    assert list(rows[0].shares) == list(rows[1].shares)  # frames and caption are kept once
    assert all("scale" not in names for row in rows for names in row.shares.values())


@torch.no_grad()
def test_a_decoder_that_is_told_a_noise_level_is_told_zero() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=1,
        patch_size_t=1,
        timestep_conditioning=True,
    ).eval()
    latents = torch.randn(2, 4, 2, 4, 4)
    expected = vae.decode(latents, torch.zeros(2)).sample
    assert torch.equal(FAMILY.autoencoder.decode(vae, latents), expected)


def test_frames_are_a_multiple_of_the_autoencoders_and_one_more(subject: Subject) -> None:
    with pytest.raises(UserError, match=r"^model\.frames\.count: must be a multiple of 4 plus 1"):
        subject.adapter(frames=Frames(count=8))
