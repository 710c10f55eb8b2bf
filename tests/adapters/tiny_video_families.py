"""Saved pipelines of random weights of the text-to-video families: clips of 4 to 9 frames of 16 or 32 pixels.

Every function writes a folder that `DiffusionPipeline.from_pretrained` opens, from nothing but its seed:
`wan(folder, seed=0) -> folder`. Settings that change the arithmetic (latent scale, schedules) are those of
the released checkpoints; only widths, depths and how much the autoencoder shrinks a clip are small.
"""

from pathlib import Path

import torch
from adapters.tiny_texts import WIDTH, clip, clip_tokenizer, seeded, t5, t5_tokenizer
from adapters.tiny_unet_families import BETAS, LATENTS, picture_vae, save
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MotionAdapter,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)


def animatediff(folder: Path, seed: int = 0) -> Path:
    """AnimateDiff: motion modules between the blocks of a Stable Diffusion UNet; one caption per frame."""
    with seeded(seed):
        tokenizer = clip_tokenizer()
        unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
        )
        motion = MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_norm_num_groups=4,
            motion_num_attention_heads=4,
            motion_max_seq_length=32,
        )
        pipeline = AnimateDiffPipeline(
            vae=picture_vae(),
            text_encoder=clip(tokenizer),
            tokenizer=tokenizer,
            unet=unet,
            motion_adapter=motion,
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="linear",
                clip_sample=False,
                timestep_spacing="linspace",
                steps_offset=1,
            ),
        )
        return save(pipeline, "unet", folder)


def modelscope(folder: Path, seed: int = 0) -> Path:
    """ModelScope text to video: a UNet with convolutions and attention over time."""
    with seeded(seed):
        tokenizer = clip_tokenizer(pad="!")
        unet = UNet3DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
        )
        pipeline = TextToVideoSDPipeline(
            vae=picture_vae(),
            text_encoder=clip(tokenizer, act="gelu"),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        )
        return save(pipeline, "unet", folder)


def _cogvideox(folder: Path, seed: int, rotary: bool) -> Path:
    with seeded(seed):
        tokenizer = t5_tokenizer(length=226)
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=LATENTS,
            out_channels=LATENTS,
            time_embed_dim=16,
            text_embed_dim=WIDTH,
            num_layers=2,
            sample_width=8,
            sample_height=8,
            sample_frames=9,
            max_text_seq_length=226,
            use_rotary_positional_embeddings=rotary,
        )
        vae = AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 3,
            up_block_types=("CogVideoXUpBlock3D",) * 3,
            block_out_channels=(8, 8, 8),
            latent_channels=LATENTS,
            layers_per_block=1,
            norm_num_groups=2,
            sample_height=32,
            sample_width=32,
            temporal_compression_ratio=4,
            scaling_factor=0.7 if rotary else 1.15258426,
        )
        scheduler = CogVideoXDDIMScheduler(
            **BETAS,
            prediction_type="v_prediction",
            clip_sample=False,
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0 if rotary else 3.0,
            timestep_spacing="trailing",
        )
        pipeline = CogVideoXPipeline(
            tokenizer=tokenizer,
            text_encoder=t5(tokenizer),
            vae=vae,
            transformer=transformer,
            scheduler=scheduler,
        )
        return save(pipeline, "transformer", folder)


def cogvideox(folder: Path, seed: int = 0) -> Path:
    """CogVideoX-5b: frames before channels, velocity at zero terminal signal, rotary positions."""
    return _cogvideox(folder, seed, rotary=True)


def cogvideox_2b(folder: Path, seed: int = 0) -> Path:
    """CogVideoX-2b: sinusoidal positions inside the network, and a schedule shifted towards noise."""
    return _cogvideox(folder, seed, rotary=False)


def wan(folder: Path, seed: int = 0) -> Path:
    """Wan 2.1: a UMT5 caption filled up with zeros, straight paths, latents normalised channel by channel."""
    with seeded(seed):
        tokenizer = t5_tokenizer()
        transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=LATENTS,
            out_channels=LATENTS,
            text_dim=WIDTH,
            freq_dim=32,
            ffn_dim=48,
            num_layers=2,
        )
        vae = AutoencoderKLWan(
            base_dim=4,
            z_dim=LATENTS,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[True, True],
            latents_mean=[-0.7571, -0.7089, -0.9113, 0.1075],
            latents_std=[2.8184, 1.4541, 2.3275, 2.6558],
            scale_factor_temporal=4,
            scale_factor_spatial=4,
        )
        pipeline = WanPipeline(
            tokenizer=tokenizer,
            text_encoder=t5(tokenizer, multilingual=True),
            vae=vae,
            transformer=transformer,
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
        return save(pipeline, "transformer", folder)


def ltx_video(folder: Path, seed: int = 0) -> Path:
    """LTX-Video: packed tokens, rotary positions in seconds and pixels, a shift by the token count."""
    with seeded(seed):
        tokenizer = t5_tokenizer(length=128)
        transformer = LTXVideoTransformer3DModel(
            in_channels=2 * LATENTS,
            out_channels=2 * LATENTS,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=WIDTH,
        )
        vae = AutoencoderKLLTXVideo(
            latent_channels=2 * LATENTS,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            patch_size=1,
            patch_size_t=1,
        )
        vae.latents_mean.copy_(torch.linspace(-0.5, 0.5, 2 * LATENTS))
        vae.latents_std.copy_(torch.linspace(0.5, 1.5, 2 * LATENTS))
        scheduler = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
            shift_terminal=0.1,
        )
        pipeline = LTXPipeline(
            scheduler=scheduler,
            vae=vae,
            text_encoder=t5(tokenizer),
            tokenizer=tokenizer,
            transformer=transformer,
        )
        return save(pipeline, "transformer", folder)
