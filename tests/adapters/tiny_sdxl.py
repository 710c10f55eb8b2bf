"""A Stable Diffusion XL pipeline of random weights: 32 x 32 pictures, two text towers of widths 32 and 48."""

from pathlib import Path
from typing import Any

import torch
from adapters.tiny_sd import SIDE, build_tokenizer
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WIDTHS, POOLED, SIZE_WIDTH = (32, 48), 24, 8


def _text_config(tokenizer: CLIPTokenizer, width: int, act: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act=act,
        projection_dim=POOLED,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_unet(**changes: Any) -> UNet2DConditionModel:
    """The denoiser alone, with random weights."""
    settings: dict[str, Any] = {
        "sample_size": SIDE // 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": sum(WIDTHS),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_WIDTH,
        "projection_class_embeddings_input_dim": 6 * SIZE_WIDTH + POOLED,
    }
    return UNet2DConditionModel(**{**settings, **changes})


def build_pipeline(seed: int = 0, zeros: bool = True) -> StableDiffusionXLPipeline:
    """The parts with seeded random weights, in float32 on the CPU; the second tokenizer fills up with "!"."""
    torch.manual_seed(seed)
    first, second = build_tokenizer(), build_tokenizer()
    second.pad_token = "!"
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
        scaling_factor=0.13025,
        force_upcast=True,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(_text_config(first, WIDTHS[0], "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(second, WIDTHS[1], "gelu")),
        tokenizer=first,
        tokenizer_2=second,
        unet=build_unet(),
        scheduler=scheduler,
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def save_pipeline(folder: Path, seed: int = 0, zeros: bool = True) -> Path:
    """Write the pipeline into `folder` and return it."""
    build_pipeline(seed, zeros).save_pretrained(folder, safe_serialization=True)
    return folder
