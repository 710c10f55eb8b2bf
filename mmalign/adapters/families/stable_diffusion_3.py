"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206): a flow under two CLIP towers and T5, which may be left out.

Noise levels in training are the scheduler's own, shifted by 3 in what is published; `timesteps.shift`
replaces that. T5 reads 256 tokens, as upstream's pipeline does by default. Sampling is Euler's method, as
published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from mmalign.adapters._families import Condition, Family
from mmalign.adapters.families._flow import JOINT_ATTENTION, check_numbers, grid_by_size
from mmalign.adapters.families._unet import check_channels
from mmalign.adapters.families.stable_diffusion import clip_length
from mmalign.types import UserError

_T5_TOKENS = 256


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    check_channels(folder, parts, "transformer")
    if ("text_encoder_3" in parts) != ("tokenizer_3" in parts):
        raise UserError(f"{folder}/model_index.json: text_encoder_3 and tokenizer_3 must go together")
    towers = [parts[name].config for name in ("text_encoder", "text_encoder_2")]
    pooled = sum(tower.projection_dim for tower in towers)
    wanted = {
        "patch_size": (2, "as in this family"),
        "pooled_projection_dim": (pooled, "the two CLIP towers' projections together"),
    }
    if "text_encoder_3" in parts:
        width = parts["text_encoder_3"].config.d_model
        wanted["joint_attention_dim"] = (width, "the width of text_encoder_3")
    check_numbers(folder, parts["transformer"].config, wanted)
    width, joint = sum(t.hidden_size for t in towers), parts["transformer"].config.joint_attention_dim
    if width > joint:
        raise UserError(
            f"{folder}/transformer: joint_attention_dim {joint} must hold both CLIP towers, {width} together"
        )


def _encode(pipeline: Any, captions: list[str], negative: bool) -> dict[str, Tensor]:
    states, _, pooled, _ = pipeline.encode_prompt(
        captions,
        None,
        None,
        device=pipeline.text_encoder.device,
        do_classifier_free_guidance=False,
        max_sequence_length=_T5_TOKENS,
    )
    return {"states": states, "pooled": pooled}


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    output: Tensor = model(
        hidden_states=noised,
        timestep=time,
        encoder_hidden_states=condition["states"],
        pooled_projections=condition["pooled"],
    ).sample
    return output


FAMILY = Family(
    pipeline=StableDiffusion3Pipeline,
    denoiser="transformer",
    models={
        "vae": (AutoencoderKL,),
        "text_encoder": (CLIPTextModelWithProjection,),
        "text_encoder_2": (CLIPTextModelWithProjection,),
        "text_encoder_3": (T5EncoderModel,),
        "transformer": (SD3Transformer2DModel,),
    },
    tokenizers={"tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer, "tokenizer_3": T5Tokenizer},
    optional=frozenset({"text_encoder_3", "tokenizer_3"}),
    conditions=("states", "pooled"),
    encode=_encode,
    predict=_predict,
    caption_lengths=lambda pipeline: (
        clip_length(pipeline.tokenizer, pipeline.text_encoder),
        clip_length(pipeline.tokenizer_2, pipeline.text_encoder_2),
        _T5_TOKENS,
    ),
    guidance=7.0,
    flow=True,
    multiple=2,
    largest=lambda denoiser: 2 * int(denoiser.config.pos_embed_max_size),
    grid=grid_by_size,
    check=_check,
    lora_targets=JOINT_ATTENTION,
)
