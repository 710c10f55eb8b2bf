"""The pretrained picture model of the package: it loads, reconstructs, samples and obeys, within limits."""

import random

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from mmalign.shapes.image_figures import SHIPPED, load, measure, sample
from mmalign.shapes.preferences import heldout_prompts
from mmalign.shapes.pretrain_vae import encode_pictures, fresh_renders, reconstruct, to_tensor
from mmalign.shapes.scenes import BASE, FULL, sample_caption
from mmalign.shapes.tiny_sd import token_ids


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    torch.set_num_threads(1)
    return load()


def test_every_part_is_a_plain_class_in_float32(pipeline: StableDiffusionPipeline) -> None:
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    assert pipeline.safety_checker is None
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_files_are_small_and_named_without_a_path() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) <= 6 * 2**20
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in files)
    assert not any("/tmp" in path.read_text() for path in files if path.suffix == ".json")
    assert "apache-2.0" in (SHIPPED / "README.md").read_text()


def test_each_caption_word_is_one_token(pipeline: StableDiffusionPipeline) -> None:
    rng = random.Random(0)
    for _ in range(100):
        text = sample_caption(FULL, rng).text
        ids = pipeline.tokenizer(text).input_ids
        assert len(ids) == len(text.split()) + 2, text
        assert len(ids) <= pipeline.tokenizer.model_max_length
    assert token_ids(pipeline.tokenizer, ["a small red star", "schräg, 東京"]).shape == (2, 16)


def test_the_autoencoder_keeps_every_fact(pipeline: StableDiffusionPipeline) -> None:
    renders = fresh_renders(100, BASE, seed=7)
    restored, psnr = reconstruct(pipeline.vae, [image for image, _ in renders])
    figures, _ = measure(restored, [prompt for _, prompt in renders])
    assert psnr > 33
    assert figures.strict >= 0.97


def test_latents_have_unit_scale(pipeline: StableDiffusionPipeline) -> None:
    renders = fresh_renders(50, BASE, seed=8)
    pictures = torch.stack([to_tensor(image) for image, _ in renders])
    means, _ = encode_pictures(pipeline.vae, pictures)
    assert 0.85 < float(means.std()) * pipeline.vae.config.scaling_factor < 1.15


def test_samples_follow_the_prompt(pipeline: StableDiffusionPipeline) -> None:
    prompts = ["a large blue square", "a small red circle", "a large yellow triangle", "a small purple star"]
    pictures = sample(pipeline, prompts, steps=10)
    figures, _ = measure(pictures, prompts)
    assert [picture.size for picture in pictures] == [(32, 32)] * 4
    assert figures.faithfulness >= 0.8
    again = sample(pipeline, prompts[:1], steps=10)
    assert again[0].tobytes() == sample(pipeline, prompts[:1], steps=10)[0].tobytes()
    assert again[0].tobytes() != sample(pipeline, prompts[:1], seed=1, steps=10)[0].tobytes()


def test_shuffled_prompts_are_followed_less(pipeline: StableDiffusionPipeline) -> None:
    """The judge reads obedience, not just well-formed shapes: the same pictures fail other prompts."""
    prompts = heldout_prompts(16, seed=3)
    pictures = sample(pipeline, prompts, steps=10)
    own, _ = measure(pictures, prompts)
    other, _ = measure(pictures, prompts[5:] + prompts[:5])
    assert own.faithfulness > other.faithfulness + 0.15
