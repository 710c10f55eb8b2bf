"""FLUX.1 dev and schnell in the diffusion adapter: packed latents, a guidance input, levels by size."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import every_check, rebuilt
from adapters.family_subject import Subject, drawn, error, euler, flow_noise
from torch import Tensor

from mmalign.adapters.diffusion import Diffusion
from mmalign.adapters.families._flow import even_grid_by_size, shift_of
from mmalign.types import UserError

NAMES = ("flux", "flux_schnell")
LENGTHS = {"flux": 512, "flux_schnell": 256}


def packed(latents: Tensor) -> Tensor:
    """[B, C, h, w] to [B, hw/4, 4C]: every patch of 2 x 2, channel by channel."""
    b, c, h, w = latents.shape
    patches = torch.nn.functional.unfold(latents, 2, stride=2)  # [B, 4C, hw/4], channels first
    assert patches.shape == (b, 4 * c, h * w // 4)
    return patches.transpose(1, 2)


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """T5's states with its padding attended to, CLIP's pooled one, and where every patch lies."""
    guided = pipeline.transformer.config.guidance_embeds
    length = 512 if guided else 256
    short = pipeline.tokenizer(caption, padding="max_length", max_length=77, return_tensors="pt")
    pooled = pipeline.text_encoder(short.input_ids).pooler_output
    long = pipeline.tokenizer_2(caption, padding="max_length", max_length=length, return_tensors="pt")
    height, width = noised.shape[-2] // 2, noised.shape[-1] // 2
    places = [(0.0, row, column) for row in range(height) for column in range(width)]
    answer = pipeline.transformer(
        hidden_states=packed(noised),
        timestep=time.reshape(1) / 1000,
        guidance=torch.tensor([3.5]) if guided else None,
        pooled_projections=pooled,
        encoder_hidden_states=pipeline.text_encoder_2(long.input_ids)[0],
        txt_ids=torch.zeros(length, 3),
        img_ids=torch.tensor(places),
    ).sample
    return torch.nn.functional.fold(answer.transpose(1, 2), noised.shape[-2:], 2, stride=2)


def call(name: str) -> Any:
    """The strength told to dev is upstream's `guidance_scale`; guiding by two forwards is its true one."""

    def settings(guidance: float) -> dict[str, Any]:
        two = {"true_cfg_scale": guidance, "negative_prompt": ["", ""]} if guidance > 1 else {}
        return {"guidance_scale": 3.5, "max_sequence_length": LENGTHS[name], **two}

    return settings


@pytest.fixture(scope="module", params=NAMES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name = str(request.param)
    return Subject(
        name,
        tiny.FAMILIES[name](tmp_path_factory.mktemp(name) / name, 0),
        predict,
        noise=flow_noise(1.0),
        scheduler=euler,
        call=call(name),
        pack=packed,
        faults=(
            (
                rebuilt("transformer", in_channels=32),
                "transformer: in_channels must be 16, four times the autoencoder's latent channels, got 32",
            ),
            (
                rebuilt("transformer", out_channels=8),
                "transformer: out_channels must be 16, as many as go in",
            ),
            (
                rebuilt("transformer", joint_attention_dim=64),
                "transformer: joint_attention_dim must be 32, the width of text_encoder_2, got 64",
            ),
            (
                rebuilt("transformer", pooled_projection_dim=16),
                "transformer: pooled_projection_dim must be 32, the width of text_encoder, got 16",
            ),
        ),
    )


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


@torch.no_grad()
def test_the_guidance_told_moves_dev_and_is_refused_by_schnell(subject: Subject) -> None:
    if subject.name == "flux_schnell":
        with pytest.raises(UserError, match="model.distilled_guidance: .*holds no guidance-distilled"):
            subject.adapter(distilled_guidance=3.5)
        return
    batch = subject.case(subject.adapter()).batch()
    draw = drawn(subject.adapter(), batch)
    usual, same, other = (
        error(adapter, batch, draw)
        for adapter in (subject.adapter(), *(subject.adapter(distilled_guidance=g) for g in (3.5, 1.0)))
    )
    assert torch.equal(usual, same) and not bool((usual == other).any())


def test_captions_of_other_lengths_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    """Both members are published with the same encoders, and schnell reads half as many tokens as dev."""
    folders = {name: tiny.FAMILIES[name](tmp_path / name, 0) for name in NAMES}
    for part in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.rmtree(folders["flux_schnell"] / part)
        shutil.copytree(folders["flux"] / part, folders["flux_schnell"] / part)
    dev, schnell = (
        Diffusion(str(folder), resolution=32).build(torch.device("cpu")) for folder in folders.values()
    )
    states = [adapter._captions.empty["states"].shape[0] for adapter in (dev, schnell)]
    assert states == [512, 256] and dev.fingerprint() != schnell.fingerprint()


def test_the_sampler_shifts_by_size(subject: Subject) -> None:
    """At 16 tokens mu is 0.5 - 240 * 0.65 / 3840 = 0.459375: 3/4 becomes e^mu / (e^mu + 1/3) = 0.8261."""
    scheduler = subject.pipeline().scheduler
    assert shift_of(scheduler, 16) == pytest.approx(0.459375)
    even_grid_by_size(scheduler, 4, (4, 8, 8))
    expected = [1.0, 0.8261, 0.6129, 0.3454, 0.0] if subject.name == "flux" else [1.0, 0.75, 0.5, 0.25, 0.0]
    assert scheduler.sigmas.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_size_must_be_given(subject: Subject) -> None:
    with pytest.raises(UserError, match=r"^model\.resolution: .* has no size of its own"):
        Diffusion(str(subject.folder)).build(torch.device("cpu"))
