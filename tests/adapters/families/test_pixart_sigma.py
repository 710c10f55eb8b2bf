"""PixArt-Sigma in the diffusion adapter: a masked T5, and an output that is half noise and half variance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import every_check, rebuilt
from adapters.family_subject import Subject, drawn, error
from adapters.tiny_sd import prompt
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmalign.adapters._latent_sampling import Generation


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """300 places of T5, the filled-up ones hidden from T5 and from the denoiser; the first half is noise."""
    tokens = pipeline.tokenizer(caption, padding="max_length", max_length=300, return_tensors="pt")
    states = pipeline.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    answer = pipeline.transformer(
        noised,
        encoder_hidden_states=states,
        encoder_attention_mask=tokens.attention_mask,
        timestep=time.reshape(1),
    ).sample
    assert answer.shape[1] == 2 * noised.shape[1]
    return answer[:, : noised.shape[1]]


def trailing(pipeline: Any) -> DDIMScheduler:
    """Upstream's DDIM over the pipeline's noise levels, at steps that count back from the last one."""
    config = pipeline.scheduler.config
    return DDIMScheduler.from_config(config, clip_sample=False, timestep_spacing="trailing")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(
        "pixart_sigma",
        tiny.FAMILIES["pixart_sigma"](tmp_path_factory.mktemp("pixart") / "pixart", 0),
        predict,
        scheduler=trailing,
        call=lambda guidance: {"guidance_scale": guidance, "clean_caption": False},
        faults=(
            (rebuilt("transformer", patch_size=4), "transformer: patch_size must be 2"),
            (rebuilt("transformer", in_channels=8), "transformer: in_channels must be 4, .* got 8"),
            (
                rebuilt("transformer", caption_channels=64),
                "transformer: caption_channels must be 32, the width of text_encoder, got 64",
            ),
            (
                rebuilt("transformer", out_channels=12),
                "transformer: out_channels must be 4, or 8 with a variance, got 12",
            ),
            (
                rebuilt("transformer", use_additional_conditions=True, num_attention_heads=6),
                "transformer: use_additional_conditions must be false",
            ),
        ),
    )


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_captions_are_read_in_lower_case(subject: Subject) -> None:
    captions = subject.adapter()._captions
    loud, quiet = captions.conditions(["  A Red CAT ", "a red cat"])
    assert all(torch.equal(loud[name], quiet[name]) for name in ("states", "mask"))
    assert int(captions.empty["mask"].sum()) == 1 and captions.empty["mask"].shape == (300,)
    assert not captions.too_long("cat " * 299) and captions.too_long("cat " * 300)


def test_steps_count_back_from_the_noisiest_level(subject: Subject) -> None:
    """Four of 1000 levels: 999, 749, 499, 249, each 250 below the one before, as DDIM carries latents."""
    adapter = subject.adapter(generation=Generation(steps=4, guidance=1.0))
    with tiny.recorded(adapter.policy) as calls:
        adapter.sample_pixels(adapter.policy, [prompt("cat")], [1])
    assert [int(call.inputs["timestep"][0]) for call in calls] == [999, 749, 499, 249]


@torch.no_grad()
def test_a_denoiser_without_a_variance_is_taken(subject: Subject, tmp_path: Path) -> None:
    """With the rows of the last layer that make noise, its errors are the same."""
    folder = tiny.FAMILIES["pixart_sigma"](tmp_path / "half", 0)
    rebuilt("transformer", out_channels=4)(folder)
    file = subject.folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    for name in ("proj_out.weight", "proj_out.bias"):  # rows go by place in the patch, then by channel
        weights[name] = weights[name].unflatten(0, (4, 8))[:, :4].flatten(0, 1).contiguous()
    save_file(weights, folder / "transformer" / file.name, metadata={"format": "pt"})
    whole, half = subject.adapter(), subject.adapter(folder)
    batch = subject.case(whole).batch()
    draw = drawn(whole, batch)
    assert torch.allclose(error(whole, batch, draw), error(half, batch, draw), atol=1e-6)
