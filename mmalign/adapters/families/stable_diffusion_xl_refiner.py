"""The refiner of Stable Diffusion XL (arXiv 2307.01952): the second tower alone, and a score beside sizes.

It was trained on the least noised fifth of the levels, and those are drawn. Every picture is told to have the
score that upstream's pipeline asks for, 6. It finishes a base model's pictures and makes none from a caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from mmalign.adapters._families import Family
from mmalign.adapters.families._unet import check_unet, check_width
from mmalign.adapters.families.stable_diffusion import clip_length
from mmalign.adapters.families.stable_diffusion_xl import check_pooled, encode, predict
from mmalign.types import UserError

_SCORE = 6.0


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    check_unet(folder, parts, "text_time", "StableDiffusionXLImg2ImgPipeline")
    check_width(folder, parts, ("text_encoder_2",))
    check_pooled(folder, parts, 5)


def _time_ids(numbers: Sequence[float]) -> Tensor:
    """Height and width before resizing, top and left of the crop, score, [5]."""
    return torch.tensor([*numbers[:4], _SCORE], dtype=torch.float32)


def _no_grid(scheduler: Any, steps: int, shape: Sequence[int]) -> None:
    raise UserError(
        "model: a StableDiffusionXLImg2ImgPipeline cannot make pictures from captions alone, it finishes "
        "those of a base model; set evaluation.grid to 0, and sample with both pipelines"
    )


FAMILY = Family(
    pipeline=StableDiffusionXLImg2ImgPipeline,
    denoiser="unet",
    models={
        "vae": (AutoencoderKL,),
        "text_encoder_2": (CLIPTextModelWithProjection,),
        "unet": (UNet2DConditionModel,),
    },
    tokenizers={"tokenizer_2": CLIPTokenizer},
    conditions=("states", "pooled", "time_ids"),
    encode=encode,
    predict=predict,
    caption_lengths=lambda pipeline: (clip_length(pipeline.tokenizer_2, pipeline.text_encoder_2),),
    guidance=7.5,
    exact=frozenset({"time_ids"}),
    noisiest=0.2,
    sizes=_time_ids,
    grid=_no_grid,
    check=_check,
    settings=MappingProxyType(
        {
            "text_encoder": None,
            "tokenizer": None,
            "requires_aesthetics_score": True,
            "add_watermarker": False,
        }
    ),
    zeros_flag="force_zeros_for_empty_prompt",
)
