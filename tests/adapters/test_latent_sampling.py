"""Sampling pictures: upstream's own pipeline, independence of the batch, guidance and added noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from tiny_sd import SIDE, build_pipeline, prompt, save_pipeline

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import Message, Part, UserError

CPU = torch.device("cpu")
PROMPTS = [prompt("cat"), prompt("a dog"), prompt(""), prompt("two cats"), prompt("cat")]
SEEDS = [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("pipelines")
    return {name: save_pipeline(base / name, name) for name in ("epsilon", "v_prediction")}


def build(folder: Path, **settings: Any) -> Denoiser:
    return Diffusion(str(folder), generation=Generation(**{"steps": 4, "guidance": 3.0, **settings})).build(
        CPU
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_equal_those_of_upstreams_pipeline(
    folders: dict[str, Path], prediction: str, guidance: float
) -> None:
    ours = build(folders[prediction], guidance=guidance)
    pixels = ours.sample_pixels(ours.policy, PROMPTS[:2], SEEDS[:2])
    pipeline = StableDiffusionPipeline.from_pretrained(folders[prediction])
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS[:2]]
    theirs = pipeline(
        ["cat", "a dog"],
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=torch.stack(noise),
        output_type="np",
    ).images
    assert np.abs(pixels.permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-3
    assert float(pixels.std()) > 0.01


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_picture_does_not_depend_on_its_batch(folders: dict[str, Path], eta: float) -> None:
    whole, small = (build(folders["epsilon"], eta=eta, batch=size) for size in (8, 2))
    together = whole.sample_pixels(whole.policy, PROMPTS, SEEDS)
    assert together.shape == (5, 3, SIDE, SIDE)
    in_twos = small.sample_pixels(small.policy, PROMPTS, SEEDS)
    alone = torch.cat([whole.sample_pixels(whole.policy, [PROMPTS[i]], [SEEDS[i]]) for i in range(5)])
    backwards = whole.sample_pixels(whole.policy, PROMPTS[::-1], SEEDS[::-1]).flip(0)
    for other in (in_twos, alone, backwards):
        assert float((together - other).abs().max()) < 1e-4


def test_prompt_seed_guidance_and_noise_all_matter(folders: dict[str, Path]) -> None:
    plain = build(folders["epsilon"])
    first = plain.sample_pixels(plain.policy, [prompt("cat")], [1])
    others = [
        plain.sample_pixels(plain.policy, [prompt("a dog")], [1]),
        plain.sample_pixels(plain.policy, [prompt("cat")], [2]),
        plain.sample_pixels(build_pipeline(seed=1).unet, [prompt("cat")], [1]),
        build(folders["epsilon"], guidance=1.0).sample_pixels(plain.policy, [prompt("cat")], [1]),
        build(folders["epsilon"], eta=1.0).sample_pixels(plain.policy, [prompt("cat")], [1]),
    ]
    for other in others:
        assert float((first - other).abs().max()) > 1e-3
    assert torch.equal(first, plain.sample_pixels(plain.policy, [prompt("cat")], [1]))


def test_generate_gives_rgb_pictures(folders: dict[str, Path]) -> None:
    adapter = build(folders["epsilon"])
    (part,) = adapter.generate(adapter.policy, [prompt("cat")], [1])
    assert part.kind == "image"
    assert part.data.mode == "RGB" and part.data.size == (SIDE, SIDE)
    pixels = adapter.sample_pixels(adapter.policy, [prompt("cat")], [1])[0].permute(1, 2, 0).numpy()
    assert np.abs(np.array(part.data) / 255 - pixels).max() <= 0.5 / 255 + 1e-6
    assert adapter.generate(adapter.policy, [], []) == []


def test_a_bfloat16_model_samples_what_its_weights_say(folders: dict[str, Path]) -> None:
    exact, half = build(folders["epsilon"]), build(folders["epsilon"])
    half.policy.to(torch.bfloat16)
    pixels = [a.sample_pixels(a.policy, PROMPTS[:2], SEEDS[:2]) for a in (exact, half)]
    assert pixels[1].dtype == torch.float32
    assert 0 < float((pixels[0] - pixels[1]).abs().max()) < 0.1


def test_prompts_that_do_not_fit_are_refused(folders: dict[str, Path]) -> None:
    adapter = build(folders["epsilon"])
    pictures = (Message("user", (Part("image", None),)),)
    with pytest.raises(UserError, match="prompt 1: prompt must be text only, got image"):
        adapter.generate(adapter.policy, [prompt("cat"), pictures], [1, 2])
    with pytest.raises(ValueError, match="1 prompts need as many seeds, got 2"):
        adapter.generate(adapter.policy, [prompt("cat")], [1, 2])


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("guidance", 0.5), ("eta", 1.5), ("batch", 0)])
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"generation\.{field}: must .* got {value}"):
        Generation(**{field: value})  # type: ignore[arg-type]
