"""LTX-Video (arXiv 2501.00103): a flow over few, wide latents, told how fast a clip runs.

In training the noise levels are not shifted by size; `timesteps.shift` shifts them by a fixed factor.
Sampling is Euler's method with upstream's shift by size. Every clip is told its own frames per second as it
was cut; those that are sampled are told the rate that `frames` asks for, or 25. Decoders that are told a
noise level are told zero, without noise, as upstream's pipeline does by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from mmalign.adapters._families import Autoencoder, Condition, Family
from mmalign.adapters.families._flow import check_numbers, even_grid
from mmalign.adapters.families._unet import check_channels
from mmalign.types import UserError

_TOKENS = 128


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    check_channels(folder, parts, "transformer")
    wanted = {
        "patch_size": (1, "as in this family"),
        "patch_size_t": (1, "as in this family"),
        "caption_channels": (parts["text_encoder"].config.d_model, "the width of text_encoder"),
    }
    check_numbers(folder, parts["transformer"].config, wanted)


def _affine(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean, and the latents' scale over the standard deviation, of every channel."""
    mean, deviation = (one.detach().float().cpu() for one in (vae.latents_mean, vae.latents_std))
    return mean, float(vae.config.scaling_factor) / deviation


def _decode(vae: Any, latents: Tensor) -> Tensor:
    level = latents.new_zeros(len(latents)) if vae.config.timestep_conditioning else None
    pixels: Tensor = vae.decode(latents, level).sample
    return pixels


def _scale(pipeline: Any, rate: float) -> Tensor:
    """Seconds per latent frame and pixels per latent, down and across, [3]."""
    side = float(pipeline.vae_spatial_compression_ratio)
    return torch.tensor([pipeline.vae_temporal_compression_ratio / rate, side, side])


def _encode(pipeline: Any, captions: list[str], negative: bool) -> dict[str, Tensor]:
    states, mask, _, _ = pipeline.encode_prompt(
        captions,
        do_classifier_free_guidance=False,
        max_sequence_length=_TOKENS,
        device=pipeline.text_encoder.device,
    )
    return {"states": states, "mask": mask}


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    frames, height, width = noised.shape[2:]
    seconds, down, across = condition["scale"].reshape(-1, 3, 1, 1, 1, 1).unbind(1)
    output = model(
        hidden_states=LTXPipeline._pack_latents(noised, 1, 1),
        encoder_hidden_states=condition["states"],
        timestep=time,
        encoder_attention_mask=condition["mask"],
        num_frames=frames,
        height=height,
        width=width,
        rope_interpolation_scale=(seconds, down, across),
    ).sample
    unpacked: Tensor = LTXPipeline._unpack_latents(output, frames, height, width, 1, 1)
    return unpacked


def _grid(scheduler: Any, steps: int, shape: Sequence[int]) -> None:
    """Even steps shifted by the number of latents [C, F, h, w], the last one stretched to a given level."""
    if steps == 1 and scheduler.config.get("shift_terminal"):
        raise UserError(
            "model.generation.steps: must be 2 or more for an LTXPipeline: its last level is fixed"
        )
    _, frames, height, width = shape
    even_grid(scheduler, steps, frames * height * width)


FAMILY = Family(
    pipeline=LTXPipeline,
    denoiser="transformer",
    models={
        "vae": (AutoencoderKLLTXVideo,),
        "text_encoder": (T5EncoderModel,),
        "transformer": (LTXVideoTransformer3DModel,),
    },
    tokenizers={"tokenizer": T5Tokenizer},
    conditions=("states", "mask", "scale"),
    encode=_encode,
    predict=_predict,
    caption_lengths=lambda pipeline: (_TOKENS,),
    guidance=3.0,
    exact=frozenset({"scale"}),
    flow=True,
    video=True,
    autoencoder=Autoencoder(
        affine=_affine,
        decode=_decode,
        factor=lambda pipeline: int(pipeline.vae_spatial_compression_ratio),
        frame_factor=lambda pipeline: int(pipeline.vae_temporal_compression_ratio),
    ),
    num_frames=161,
    frame_rate=25.0,
    clip_scale=_scale,
    grid=_grid,
    check=_check,
)
