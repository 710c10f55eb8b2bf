"""FLUX.1: a flow over packed latents under T5 and a pooled CLIP caption; dev is told a guidance strength.

In training the noise levels of dev are not shifted by size, as in upstream's trainers; `timesteps.shift`
shifts them by a fixed factor. Sampling is Euler's method with upstream's shift by size. Above 1
`generation.guidance` guides away from the empty caption at the cost of a second forward; the strength that
dev is told, in training and in sampling alike, is `distilled_guidance`. T5 reads 512 tokens for dev and 256
for schnell.

The time is T times the share of noise, rounded to the type of the denoiser's weights, and a thousandth of
that, as upstream's pipeline gives it, in training and in sampling alike. Near pure noise half precision tells
every fourth of 1000 levels apart. With `dtype: float32` every level is told exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from mmalign.adapters._families import Condition, Family
from mmalign.adapters.families._flow import JOINT_ATTENTION, check_numbers, even_grid_by_size
from mmalign.adapters.families.stable_diffusion import clip_length


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    config = parts["transformer"].config
    packed = 4 * parts["vae"].config.latent_channels
    wanted: dict[str, tuple[int, str]] = {
        "patch_size": (1, "as in this family"),
        "in_channels": (packed, "four times the autoencoder's latent channels"),
        "joint_attention_dim": (parts["text_encoder_2"].config.d_model, "the width of text_encoder_2"),
        "pooled_projection_dim": (parts["text_encoder"].config.hidden_size, "the width of text_encoder"),
    }
    if config.out_channels is not None:
        wanted["out_channels"] = (packed, "as many as go in")
    check_numbers(folder, config, wanted)


def _t5_tokens(pipeline: Any) -> int:
    return 512 if pipeline.transformer.config.guidance_embeds else 256


def _encode(pipeline: Any, captions: list[str], negative: bool) -> dict[str, Tensor]:
    states, pooled, _ = pipeline.encode_prompt(
        captions,
        None,
        device=pipeline.text_encoder.device,
        max_sequence_length=_t5_tokens(pipeline),
    )
    return {"states": states, "pooled": pooled}


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    count, channels, height, width = noised.shape
    device, states = noised.device, condition["states"]
    output = model(
        hidden_states=FluxPipeline._pack_latents(noised, count, channels, height, width),
        timestep=time.to(noised.dtype) / 1000,  # the network multiplies it
        guidance=condition.get("guidance"),
        pooled_projections=condition["pooled"],
        encoder_hidden_states=states,
        txt_ids=torch.zeros(states.shape[1], 3, device=device),
        img_ids=FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, device, torch.float32),
    ).sample
    unpacked: Tensor = FluxPipeline._unpack_latents(output, height, width, 1)
    return unpacked


FAMILY = Family(
    pipeline=FluxPipeline,
    denoiser="transformer",
    models={
        "vae": (AutoencoderKL,),
        "text_encoder": (CLIPTextModel,),
        "text_encoder_2": (T5EncoderModel,),
        "transformer": (FluxTransformer2DModel,),
    },
    tokenizers={"tokenizer": CLIPTokenizer, "tokenizer_2": T5Tokenizer},
    conditions=("states", "pooled"),
    encode=_encode,
    predict=_predict,
    caption_lengths=lambda pipeline: (
        clip_length(pipeline.tokenizer, pipeline.text_encoder),
        _t5_tokens(pipeline),
    ),
    guidance=1.0,
    flow=True,
    multiple=2,
    grid=even_grid_by_size,
    check=_check,
    distilled=True,
    lora_targets=JOINT_ATTENTION,
)
