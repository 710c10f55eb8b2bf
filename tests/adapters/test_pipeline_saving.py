"""A saved pipeline samples as the run does, whatever was done to its noise levels."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline
from tiny_sd import build_pipeline, prompt

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters.diffusion import Diffusion


def build(folder: Path, **settings: Any) -> Denoiser:
    return Diffusion(str(folder), generation=Generation(steps=4, guidance=2.0), **settings).build(
        torch.device("cpu")
    )


def upstream_picture(saved: Path, scheduler: type[Any] | None = None) -> torch.Tensor:
    """[3, R, R] of "cat" by upstream's pipeline in 4 steps, from the noise that seed 7 gives the adapter."""
    pipeline = StableDiffusionPipeline.from_pretrained(saved)
    if scheduler is not None:
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(7))[None]
    made = pipeline("cat", num_inference_steps=4, guidance_scale=2.0, latents=noise, output_type="np")
    return torch.from_numpy(made.images[0]).permute(2, 0, 1)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_pipeline_whose_levels_end_in_noise_is_saved_with_those_it_samples_at(
    tmp_path: Path, prediction: str, scheduler: type[Any]
) -> None:
    pipeline = build_pipeline(prediction)
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "base", safe_serialization=True)
    adapter = build(tmp_path / "base", zero_terminal_snr=True)
    ours = adapter.sample_pixels(adapter.policy, [prompt("cat")], [7])[0]
    adapter.save(adapter.policy, tmp_path / "saved", None)
    assert float((upstream_picture(tmp_path / "saved", DDIMScheduler) - ours).abs().max()) < 1e-3
    config = json.loads((tmp_path / "saved/scheduler/scheduler_config.json").read_text())
    rescaled = prediction != "epsilon"  # samples of a network that predicts noise keep the levels they had
    assert bool(config.get("rescale_betas_zero_snr")) == rescaled
    assert (adapter.beside_lora() is not None) == rescaled
    replaced = rescaled and scheduler is PNDMScheduler  # it knows no rescaling
    wanted = DDIMScheduler if replaced else scheduler
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "saved").scheduler
    assert type(loaded) is wanted and config["_class_name"] == wanted.__name__
    again = build(tmp_path / "saved")
    assert torch.equal(again.sample_pixels(again.policy, [prompt("cat")], [7])[0], ours)
    assert build(tmp_path / "base").beside_lora() is None and again.beside_lora() is None
    if wanted is DDIMScheduler:
        assert float((upstream_picture(tmp_path / "saved") - ours).abs().max()) < 1e-3
    if rescaled:
        assert float((upstream_picture(tmp_path / "base", DDIMScheduler) - ours).abs().max()) > 1e-2
