"""Stable Diffusion XL: two CLIP towers and a UNet that is told every picture's size and crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mmalign.adapters._families import Condition, Family
from mmalign.adapters.families._unet import check_unet, check_width, user_of
from mmalign.adapters.families.stable_diffusion import clip_length
from mmalign.types import UserError


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    check_unet(folder, parts, "text_time", "StableDiffusionXLPipeline")
    check_width(folder, parts, ("text_encoder", "text_encoder_2"))
    check_pooled(folder, parts, 6)


def check_pooled(folder: Path, parts: Mapping[str, Any], sizes: int) -> None:
    """The pooled caption and `sizes` numbers fill the UNet's added embedding. Raises UserError."""
    unet = parts["unet"].config
    given = sizes * unet.addition_time_embed_dim + parts["text_encoder_2"].config.projection_dim
    if unet.projection_class_embeddings_input_dim != given:
        words = {5: "five", 6: "six"}[sizes]
        raise UserError(
            f"{folder}/unet: projection_class_embeddings_input_dim must be {given}, {words} sizes and the "
            f"pooled caption, got {unet.projection_class_embeddings_input_dim}"
        )


def encode(pipeline: Any, captions: list[str], negative: bool) -> dict[str, Tensor]:
    """Penultimate states of both towers side by side, and the second one's pooled vector."""
    device = pipeline.text_encoder_2.device
    states, _, pooled, _ = pipeline.encode_prompt(
        prompt=captions, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return {"states": states, "pooled": pooled}


def predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """The UNet's prediction under states, pooled caption and sizes."""
    added = {"text_embeds": condition["pooled"], "time_ids": condition["time_ids"]}
    output: Tensor = model(
        noised,
        time,
        encoder_hidden_states=condition["states"],
        added_cond_kwargs=added,
        cross_attention_kwargs=user_of(condition),
    ).sample
    return output


def time_ids(numbers: Sequence[float]) -> Tensor:
    """Height and width before resizing, top and left of the crop, height and width of the result, [6]."""
    return torch.tensor(numbers, dtype=torch.float32)


FAMILY = Family(
    pipeline=StableDiffusionXLPipeline,
    denoiser="unet",
    models={
        "vae": (AutoencoderKL,),
        "text_encoder": (CLIPTextModel,),
        "text_encoder_2": (CLIPTextModelWithProjection,),
        "unet": (UNet2DConditionModel,),
    },
    tokenizers={"tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer},
    conditions=("states", "pooled", "time_ids"),
    encode=encode,
    predict=predict,
    caption_lengths=lambda pipeline: (
        clip_length(pipeline.tokenizer, pipeline.text_encoder),
        clip_length(pipeline.tokenizer_2, pipeline.text_encoder_2),
    ),
    guidance=5.0,
    sentences=True,
    users=True,
    exact=frozenset({"time_ids"}),  # half precision has no 1023
    sizes=time_ids,
    check=_check,
    settings=MappingProxyType({"add_watermarker": False}),
    zeros_flag="force_zeros_for_empty_prompt",
)
