"""ModelScope text to video (arXiv 2308.06571): a UNet with convolutions and attention over time.

Every frame goes through the picture autoencoder alone. Upstream's UNet has no gradient checkpointing and no
loader of LoRA weights: those are saved as PEFT saves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, TextToVideoSDPipeline, UNet3DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mmalign.adapters._families import Autoencoder, Condition, Family
from mmalign.adapters.families._unet import check_unet, check_width
from mmalign.adapters.families.stable_diffusion import clip_length, encode


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    check_unet(folder, parts, None, "TextToVideoSDPipeline")
    check_width(folder, parts, ("text_encoder",))


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    output: Tensor = model(noised, time, encoder_hidden_states=condition["states"]).sample
    return output


FAMILY = Family(
    pipeline=TextToVideoSDPipeline,
    denoiser="unet",
    models={"vae": (AutoencoderKL,), "text_encoder": (CLIPTextModel,), "unet": (UNet3DConditionModel,)},
    tokenizers={"tokenizer": CLIPTokenizer},
    conditions=("states",),
    encode=encode,
    predict=_predict,
    caption_lengths=lambda pipeline: (clip_length(pipeline.tokenizer, pipeline.text_encoder),),
    guidance=9.0,
    video=True,
    autoencoder=Autoencoder(per_frame=True),
    num_frames=16,
    frame_rate=8.0,
    check=_check,
    lora_loader=False,
)
