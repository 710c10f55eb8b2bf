"""Saved Stable Diffusion pipelines of random weights beside `tiny_sd` and `tiny_sdxl`: 16 x 16 pictures.

Every function writes a folder that `DiffusionPipeline.from_pretrained` opens, from nothing but its seed:
`sd2(folder, seed=0) -> folder`. Settings that change the arithmetic (latent scale, schedule, caption filling)
are those of the released checkpoints; only widths and depths are small.
"""

from pathlib import Path
from typing import Any

from adapters.tiny_sdxl import SIZE_WIDTH, build_unet
from adapters.tiny_texts import WIDTH, clip, clip_tokenizer, seeded, wake
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

SIDE = 16
LATENTS = 4
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def picture_vae(levels: int = 2, **settings: Any) -> AutoencoderKL:
    """A picture autoencoder that shrinks each side by `2 ** (levels - 1)`."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8, 16, 16, 16)[:levels],
        latent_channels=LATENTS,
        norm_num_groups=4,
        sample_size=SIDE,
        **settings,
    )


def save(pipeline: DiffusionPipeline, denoiser: str, folder: Path) -> Path:
    """Write the pipeline into `folder`, without weights that are zero in its denoiser."""
    wake(pipeline.components[denoiser])
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def sd2(folder: Path, seed: int = 0) -> Path:
    """Stable Diffusion 2.1: velocity prediction, one tower that fills up with "!"."""
    with seeded(seed):
        tokenizer = clip_tokenizer(pad="!")
        unet = UNet2DConditionModel(
            sample_size=SIDE // 2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=WIDTH,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
        )
        scheduler = DDIMScheduler(
            **BETAS,
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )
        pipeline = StableDiffusionPipeline(
            vae=picture_vae(),
            text_encoder=clip(tokenizer, act="gelu"),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return save(pipeline, "unet", folder)


def sdxl_refiner(folder: Path, seed: int = 0) -> Path:
    """The refiner of Stable Diffusion XL: the second tower alone, and five time ids that end in a score."""
    with seeded(seed):
        tokenizer = clip_tokenizer(pad="!")
        pipeline = StableDiffusionXLImg2ImgPipeline(
            vae=picture_vae(scaling_factor=0.13025, force_upcast=True),
            text_encoder=None,
            text_encoder_2=clip(tokenizer, act="gelu", projected=True),
            tokenizer=None,
            tokenizer_2=tokenizer,
            unet=build_unet(
                sample_size=SIDE // 2,
                cross_attention_dim=WIDTH,
                projection_class_embeddings_input_dim=5 * SIZE_WIDTH + WIDTH,
            ),
            scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1),
            requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
        return save(pipeline, "unet", folder)


def sdxl_turbo(folder: Path, seed: int = 0) -> Path:
    """Stable Diffusion XL with the schedule of the distilled model: noisy Euler steps, trailing timesteps."""
    with seeded(seed):
        first, second = clip_tokenizer(), clip_tokenizer(pad="!")
        pipeline = StableDiffusionXLPipeline(
            vae=picture_vae(scaling_factor=0.13025, force_upcast=True),
            text_encoder=clip(first),
            text_encoder_2=clip(second, act="gelu", projected=True),
            tokenizer=first,
            tokenizer_2=second,
            unet=build_unet(
                sample_size=SIDE // 2,
                cross_attention_dim=2 * WIDTH,
                projection_class_embeddings_input_dim=6 * SIZE_WIDTH + WIDTH,
            ),
            scheduler=EulerAncestralDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="trailing"),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
        return save(pipeline, "unet", folder)
