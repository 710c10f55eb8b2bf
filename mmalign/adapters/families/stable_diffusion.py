"""Stable Diffusion 1.x and 2.x: one CLIP tower, a UNet that predicts noise or velocity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mmalign.adapters._families import Condition, Family
from mmalign.adapters.families._unet import check_unet, check_width, user_of


def clip_length(tokenizer: Any, encoder: Any) -> int:
    """Tokens of a caption, start and end included, that a CLIP tower takes."""
    return int(min(tokenizer.model_max_length, encoder.config.max_position_embeddings))


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    check_unet(folder, parts, None, "StableDiffusionPipeline")
    check_width(folder, parts, ("text_encoder",))


def encode(pipeline: Any, captions: list[str], negative: bool) -> dict[str, Tensor]:
    """The last states of the one CLIP tower, [B, L, W]."""
    return {"states": pipeline.encode_prompt(captions, pipeline.text_encoder.device, 1, False)[0]}


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    output: Tensor = model(
        noised, time, encoder_hidden_states=condition["states"], cross_attention_kwargs=user_of(condition)
    ).sample
    return output


FAMILY = Family(
    pipeline=StableDiffusionPipeline,
    denoiser="unet",
    models={"vae": (AutoencoderKL,), "text_encoder": (CLIPTextModel,), "unet": (UNet2DConditionModel,)},
    tokenizers={"tokenizer": CLIPTokenizer},
    conditions=("states",),
    encode=encode,
    predict=_predict,
    caption_lengths=lambda pipeline: (clip_length(pipeline.tokenizer, pipeline.text_encoder),),
    guidance=7.5,
    sentences=True,
    users=True,
    check=_check,
    settings=MappingProxyType(
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    ),
)
