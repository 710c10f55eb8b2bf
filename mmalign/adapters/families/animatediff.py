"""AnimateDiff (arXiv 2307.04725): motion modules between the blocks of a Stable Diffusion UNet.

Every frame goes through the picture autoencoder alone, and every frame is told the same caption. A trained
UNet holds its motion modules itself, so the separate motion adapter that a pipeline was put together from is
not saved beside it. Sampling is DDIM, whatever scheduler the pipeline is published with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusers import AnimateDiffPipeline, AutoencoderKL, UNetMotionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mmalign.adapters._families import Autoencoder, Condition, Family
from mmalign.adapters.families._unet import check_unet, check_width
from mmalign.adapters.families.stable_diffusion import clip_length, encode


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    check_unet(folder, parts, None, "AnimateDiffPipeline")
    check_width(folder, parts, ("text_encoder",))


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    states = condition["states"].repeat_interleave(noised.shape[2], 0)  # [B * F, L, W]
    output: Tensor = model(noised, time, encoder_hidden_states=states).sample
    return output


FAMILY = Family(
    pipeline=AnimateDiffPipeline,
    denoiser="unet",
    models={"vae": (AutoencoderKL,), "text_encoder": (CLIPTextModel,), "unet": (UNetMotionModel,)},
    tokenizers={"tokenizer": CLIPTokenizer},
    conditions=("states",),
    encode=encode,
    predict=_predict,
    caption_lengths=lambda pipeline: (clip_length(pipeline.tokenizer, pipeline.text_encoder),),
    guidance=7.5,
    video=True,
    autoencoder=Autoencoder(per_frame=True),
    num_frames=16,
    most_frames=lambda pipeline: int(pipeline.unet.config.motion_max_seq_length),
    frame_rate=8.0,
    check=_check,
    settings=MappingProxyType({"motion_adapter": None}),
    outdated=frozenset({"motion_adapter"}),
)
