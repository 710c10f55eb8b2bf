"""Hunyuan-DiT 1.0 to 1.2 (arXiv 2405.08748): velocity under BERT, a multilingual T5, sizes and a style.

The network takes its noise level in the type of its weights, and bfloat16 holds eight bits of it: 999 is told
as 1000, here as upstream. With `dtype: float32` every level is told exactly. Of each picture the size
before resizing, the size after and the crop are told, which versions from 1.2 ignore; the style is the only
one there is. Sampling is DDIM, where upstream's own is DDPM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL, HunyuanDiT2DModel, HunyuanDiTPipeline
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor
from transformers import BertModel, BertTokenizer, T5EncoderModel, T5Tokenizer

from mmalign.adapters._families import Condition, Family
from mmalign.adapters.families._flow import check_numbers
from mmalign.types import UserError

_LENGTHS = (77, 256)  # of BERT and T5: the denoiser has learned a filling for each place
_FACTOR = 8  # pixels per latent, which upstream's pipeline takes for granted
_BASE = 512 // _FACTOR  # side of the latents that places are counted on


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    vae = parts["vae"].config
    if 2 ** (len(vae.block_out_channels) - 1) != _FACTOR:
        raise UserError(
            f"{folder}/vae: must have {_FACTOR} pixels per latent for a HunyuanDiTPipeline, got "
            f"{2 ** (len(vae.block_out_channels) - 1)}"
        )
    wanted: dict[str, tuple[int, str]] = {
        "patch_size": (2, "as in this family"),
        "in_channels": (vae.latent_channels, "the autoencoder's latent channels"),
        "cross_attention_dim": (parts["text_encoder"].config.hidden_size, "the width of text_encoder"),
        "cross_attention_dim_t5": (parts["text_encoder_2"].config.d_model, "the width of text_encoder_2"),
        "text_len": (_LENGTHS[0], "the tokens that upstream's pipeline gives"),
        "text_len_t5": (_LENGTHS[1], "the tokens that upstream's pipeline gives"),
        "learn_sigma": (True, "as in this family"),
    }
    check_numbers(folder, parts["transformer"].config, wanted)


def _encode(pipeline: Any, captions: list[str], negative: bool) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for index, suffix in enumerate(("", "_t5")):
        states, _, mask, _ = pipeline.encode_prompt(
            captions,
            device=pipeline.text_encoder.device,
            dtype=pipeline.text_encoder.dtype,
            do_classifier_free_guidance=False,
            max_sequence_length=_LENGTHS[index],
            text_encoder_index=index,
        )
        found |= {f"states{suffix}": states, f"mask{suffix}": mask}
    return found


def _places(model: Any, noised: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary tables, cosine and sine, of the patches of latents [B, C, h, w]: [h w / 4, width of a head]."""
    patch = model.config.patch_size
    grid = (noised.shape[-2] // patch, noised.shape[-1] // patch)
    region = get_resize_crop_region_for_grid(grid, _BASE // patch)
    table: tuple[Tensor, Tensor] = get_2d_rotary_pos_embed(
        model.inner_dim // model.num_heads, region, grid, device=noised.device, output_type="pt"
    )
    return table


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    output: Tensor = model(
        noised,
        time.to(noised.dtype),
        encoder_hidden_states=condition["states"],
        text_embedding_mask=condition["mask"],
        encoder_hidden_states_t5=condition["states_t5"],
        text_embedding_mask_t5=condition["mask_t5"],
        image_meta_size=condition["time_ids"].contiguous(),  # upstream takes a view
        style=torch.zeros(len(noised), dtype=torch.long, device=noised.device),
        image_rotary_emb=_places(model, noised),
    ).sample
    return output.chunk(2, dim=1)[0]  # the other half is a variance


def _time_ids(numbers: Sequence[float]) -> Tensor:
    """Height and width before resizing, height and width of the result, top and left of the crop, [6]."""
    height, width, top, left, to_height, to_width = numbers
    return torch.tensor([height, width, to_height, to_width, top, left], dtype=torch.float32)


FAMILY = Family(
    pipeline=HunyuanDiTPipeline,
    denoiser="transformer",
    models={
        "vae": (AutoencoderKL,),
        "text_encoder": (BertModel,),
        "text_encoder_2": (T5EncoderModel,),
        "transformer": (HunyuanDiT2DModel,),
    },
    tokenizers={"tokenizer": BertTokenizer, "tokenizer_2": T5Tokenizer},
    conditions=("states", "mask", "states_t5", "mask_t5", "time_ids"),
    encode=_encode,
    predict=_predict,
    caption_lengths=lambda pipeline: _LENGTHS,
    guidance=5.0,
    exact=frozenset({"time_ids"}),  # half precision has no 1023
    multiple=2,
    sizes=_time_ids,
    check=_check,
    settings=MappingProxyType(
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    ),
    lora_loader=False,
)
