"""Wan 2.1 in the diffusion adapter: a flow over clips, latents normalised channel by channel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import edited, every_check
from adapters.family_subject import Subject, flow_noise
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from mmalign.adapters._families import base_type
from mmalign.adapters._noise import TimestepRange
from mmalign.types import Frames, UserError

MEAN = (-0.7571, -0.7089, -0.9113, 0.1075)
DEVIATION = (2.8184, 1.4541, 2.3275, 2.6558)


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """UMT5 under its mask, cut to the caption's length and filled up with zeros to 512."""
    ids = pipeline.tokenizer(caption, return_tensors="pt").input_ids
    states = pipeline.text_encoder(ids)[0]
    states = torch.nn.functional.pad(states, (0, 0, 0, 512 - states.shape[1]))
    return pipeline.transformer(
        hidden_states=noised, timestep=time.reshape(1), encoder_hidden_states=states
    ).sample


def latents(pipeline: Any, pixels: Tensor, noise: Tensor) -> Tensor:
    found = pipeline.vae.encode(pixels).latent_dist
    mean, deviation = (torch.tensor(values).reshape(1, 4, 1, 1, 1) for values in (MEAN, DEVIATION))
    return (found.mean + found.std * noise - mean) / deviation


class Even(FlowMatchEulerDiscreteScheduler):
    """Euler's method over even steps shifted once; upstream's own spacing would shift the last one twice."""

    def set_timesteps(self, num_inference_steps: Any = None, device: Any = None, **given: Any) -> None:
        super().set_timesteps(sigmas=np.linspace(1, 0, num_inference_steps + 1)[:-1], device=device)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    transformer, index = "transformer/config.json", "model_index.json"
    return Subject(
        "wan",
        tiny.FAMILIES["wan"](tmp_path_factory.mktemp("wan") / "wan", 0),
        predict,
        noise=flow_noise(3.0),
        latents=latents,
        scheduler=lambda pipeline: Even(shift=3.0),
        faults=(
            (edited(index, transformer_2=["diffusers", "WanTransformer3DModel"]), "transformer_2 is "),
            (edited(index, boundary_ratio=0.9), "boundary_ratio is 0.9"),
            (edited(index, expand_timesteps=True), "expand_timesteps is True"),
            (edited(transformer, image_dim=8), "transformer: "),
            (edited(transformer, ffn_dim=64), "transformer: "),
            (edited("vae/config.json", latents_std=[1.0]), "vae: latents_std must hold 4 numbers"),
            (edited("text_encoder/config.json", d_model=64), "text_encoder: "),
        ),
    )


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_weights_that_upstream_keeps_in_float32_do_not_decide_the_type(subject: Subject) -> None:
    """The first weight, of scales and shifts, stays in float32 whatever is asked."""
    half = subject.adapter(dtype="bfloat16").policy
    assert next(half.parameters()).dtype == torch.float32 and base_type(half) == torch.bfloat16


def test_the_shift_is_the_solvers_own_unless_given(subject: Subject) -> None:
    """3 * 0.5 / (1 + 2 * 0.5) = 0.75; at 5 the middle level is 2.5 / 3."""
    for shift, middle in ((None, 0.75), (5.0, 2.5 / 3), (1.0, 0.5)):
        adapter = subject.adapter(timesteps=TimestepRange(shift=shift))
        assert float(adapter._schedule.noise[499]) == pytest.approx(middle, abs=1e-6)


def test_frames_are_a_multiple_of_four_and_one_more(subject: Subject) -> None:
    for count in (8, 10, 12):  # the autoencoder would drop the last frames without a word
        with pytest.raises(UserError, match=r"^model\.frames\.count: must be a multiple of 4 plus 1"):
            subject.adapter(frames=Frames(count=count))
    assert subject.adapter(frames=Frames(count=13))._latents.shape(32, 32, 13) == (4, 4, 8, 8)


@torch.no_grad()
def test_every_frame_counts(subject: Subject) -> None:
    adapter = subject.adapter()
    clip = torch.zeros(9, 3, 32, 32, dtype=torch.uint8)
    base = adapter._latents.encode([clip])[0]["mean"]
    for i in range(9):
        changed = clip.clone()
        changed[i] = 255
        assert not torch.equal(adapter._latents.encode([changed])[0]["mean"], base), i
