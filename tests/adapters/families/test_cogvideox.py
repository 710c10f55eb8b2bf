"""CogVideoX 2b and 5b in the diffusion adapter: velocity over clips, to noise alone at the last level."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import edited, every_check
from adapters.family_subject import Subject
from diffusers import CogVideoXDDIMScheduler
from torch import Tensor

from mmalign.adapters._latent_sampling import Generation
from mmalign.types import Frames, UserError

NAMES = ("cogvideox", "cogvideox_2b")
SCALE = {"cogvideox": 0.7, "cogvideox_2b": 1.15258426}


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """Frames before channels; T5's padding is attended to; 5b is told where every patch lies."""
    ids = pipeline.tokenizer(caption, padding="max_length", max_length=226, return_tensors="pt").input_ids
    places = None
    if pipeline.transformer.config.use_rotary_positional_embeddings:
        sides = [4 * side for side in noised.shape[-2:]]
        places = pipeline._prepare_rotary_positional_embeddings(*sides, noised.shape[2], torch.device("cpu"))
    return pipeline.transformer(
        hidden_states=noised.permute(0, 2, 1, 3, 4),
        encoder_hidden_states=pipeline.text_encoder(ids)[0],
        timestep=time.reshape(1),
        image_rotary_emb=places,
    ).sample.permute(0, 2, 1, 3, 4)


def noised(pipeline: Any, x0: Tensor, eps: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
    """By the pipeline's own schedule: a of CogVideoX's table, velocity a eps - s x0."""
    signal = float(pipeline.scheduler.alphas_cumprod[level]) ** 0.5
    noise = (1 - signal**2) ** 0.5
    return signal * x0 + noise * eps, torch.tensor(level), signal * eps - noise * x0


def latents(pipeline: Any, pixels: Tensor, noise: Tensor) -> Tensor:
    found = pipeline.vae.encode(pixels).latent_dist
    return (found.mean + found.std * noise) * pipeline.vae.config.scaling_factor


@pytest.fixture(scope="module", params=NAMES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name, transformer = str(request.param), "transformer/config.json"
    return Subject(
        name,
        tiny.FAMILIES[name](tmp_path_factory.mktemp(name) / name, 0),
        predict,
        noise=noised,
        latents=latents,
        scheduler=lambda pipeline: pipeline.scheduler,
        pack=lambda x: x.transpose(1, 2),
        faults=(
            (edited("scheduler/scheduler_config.json", _class_name="DDIMScheduler"), "DDIMScheduler is not"),
            (edited(transformer, use_learned_positional_embeddings=True), "transformer: "),
            (edited("vae/config.json", invert_scale_latents=True), "vae: invert_scale_latents is True"),
            (edited("text_encoder/config.json", d_model=64), "text_encoder: "),
        ),
    )


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_the_schedule_is_the_pipelines_own(subject: Subject) -> None:
    """abar of level 500 in scaled-linear betas, shifted by 3 in 2b, both rescaled to end in noise alone."""
    schedule = subject.adapter()._schedule
    expected = {"cogvideox": 0.2410, "cogvideox_2b": 0.0953}[subject.name]
    assert float(schedule.signal[500] ** 2) == pytest.approx(expected, abs=1e-4)
    assert float(schedule.signal[999]) == 0.0 and float(schedule.noise[999]) == 1.0
    assert subject.adapter()._latents.normalised(torch.ones(1, 4, 3, 8, 8))[0, 0, 0, 0, 0] == pytest.approx(
        SCALE[subject.name]
    )


@torch.no_grad()
def test_the_solver_it_may_be_published_with_changes_nothing(subject: Subject, tmp_path: Path) -> None:
    folder = shutil.copytree(subject.folder, tmp_path / "dpm")
    edited("scheduler/scheduler_config.json", _class_name="CogVideoXDPMScheduler")(folder)
    ours, other = subject.adapter(), subject.adapter(folder)
    assert isinstance(other._parts.pipeline.scheduler, CogVideoXDDIMScheduler)
    assert torch.equal(ours._schedule.signal, other._schedule.signal)


def test_frames_that_would_not_decode_to_as_many_are_refused(subject: Subject) -> None:
    for count in (8, 12, 13, 5):  # 13 are 4 latent frames, which decode to 16
        with pytest.raises(UserError, match=r"^model\.frames\.count: must be a multiple of 8 plus 1"):
            subject.adapter(frames=Frames(count=count))
    adapter = subject.adapter(frames=Frames(count=17))
    assert adapter._latents.shape(32, 32, 17) == (4, 5, 8, 8)


def test_added_noise_that_upstreams_sampler_would_ignore_is_refused(subject: Subject) -> None:
    with pytest.raises(UserError, match=r"^model\.generation\.eta: "):
        subject.adapter(generation=Generation(eta=0.5))
