"""Saved pipelines of random weights of the picture families with a transformer: 16 x 16 pictures.

Every function writes a folder that `DiffusionPipeline.from_pretrained` opens, from nothing but its seed:
`sd3(folder, seed=0) -> folder`. Settings that change the arithmetic (latent scale and shift, schedules, quant
convolutions) are those of the released checkpoints; only widths and depths are small.
"""

from pathlib import Path

from adapters.tiny_texts import (
    WIDTH,
    bert,
    bert_tokenizer,
    clip,
    clip_tokenizer,
    gemma,
    gemma_tokenizer,
    seeded,
    t5,
    t5_tokenizer,
)
from adapters.tiny_unet_families import LATENTS, SIDE, picture_vae, save
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)


def sd3(folder: Path, seed: int = 0) -> Path:
    """Stable Diffusion 3.5: three towers, straight paths shifted by 3, attention with normalised queries."""
    with seeded(seed):
        first, second, third = clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer()
        transformer = SD3Transformer2DModel(
            sample_size=SIDE // 2,
            patch_size=2,
            in_channels=LATENTS,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH,
            out_channels=LATENTS,
            pos_embed_max_size=24,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        pipeline = StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_flow_vae(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=clip(first, projected=True),
            tokenizer=first,
            text_encoder_2=clip(second, act="gelu", projected=True),
            tokenizer_2=second,
            text_encoder_3=t5(third, width=2 * WIDTH),
            tokenizer_3=third,
        )
        return save(pipeline, "transformer", folder)


def _flow_vae(scaling_factor: float, shift_factor: float) -> AutoencoderKL:
    return picture_vae(
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
    )


def _flux(folder: Path, seed: int, guided: bool, scheduler: FlowMatchEulerDiscreteScheduler) -> Path:
    with seeded(seed):
        first, second = clip_tokenizer(), t5_tokenizer()
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * LATENTS,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guided,
            axes_dims_rope=(4, 4, 8),
        )
        pipeline = FluxPipeline(
            scheduler=scheduler,
            vae=_flow_vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=clip(first),
            tokenizer=first,
            text_encoder_2=t5(second),
            tokenizer_2=second,
            transformer=transformer,
        )
        return save(pipeline, "transformer", folder)


def flux(folder: Path, seed: int = 0) -> Path:
    """Flux.1-dev: told its guidance scale; the schedule shifts with the number of tokens."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    return _flux(folder, seed, guided=True, scheduler=scheduler)


def flux_schnell(folder: Path, seed: int = 0) -> Path:
    """Flux.1-schnell: no guidance input, no shift."""
    return _flux(folder, seed, guided=False, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0))


def pixart_sigma(folder: Path, seed: int = 0) -> Path:
    """PixArt-Sigma: a masked T5 caption of 300 positions, and an output of twice the latent channels."""
    with seeded(seed):
        tokenizer = t5_tokenizer(length=300)
        transformer = PixArtTransformer2DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=LATENTS,
            out_channels=2 * LATENTS,
            num_layers=2,
            cross_attention_dim=32,
            sample_size=SIDE // 2,
            patch_size=2,
            norm_type="ada_norm_single",
            caption_channels=WIDTH,
            interpolation_scale=2,
            use_additional_conditions=False,
        )
        pipeline = PixArtSigmaPipeline(
            tokenizer=tokenizer,
            text_encoder=t5(tokenizer),
            vae=picture_vae(scaling_factor=0.13025, force_upcast=True),
            transformer=transformer,
            scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
        )
        return save(pipeline, "transformer", folder)


def sana(folder: Path, seed: int = 0) -> Path:
    """Sana: a Gemma 2 caption of 300 positions, linear attention, an autoencoder without a distribution."""
    with seeded(seed):
        tokenizer = gemma_tokenizer()
        transformer = SanaTransformer2DModel(
            in_channels=LATENTS,
            out_channels=LATENTS,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=WIDTH,
            sample_size=SIDE // 2,
            patch_size=1,
        )
        vae = AutoencoderDC(
            latent_channels=LATENTS,
            attention_head_dim=4,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 16),
            decoder_block_out_channels=(8, 16),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            downsample_block_type="Conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        )
        scheduler = DPMSolverMultistepScheduler(
            beta_schedule="linear",
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=3.0,
        )
        pipeline = SanaPipeline(
            tokenizer=tokenizer,
            text_encoder=gemma(tokenizer),
            vae=vae,
            transformer=transformer,
            scheduler=scheduler,
        )
        return save(pipeline, "transformer", folder)


def hunyuan_dit(folder: Path, seed: int = 0) -> Path:
    """HunyuanDiT: BERT and T5 captions with masks, sizes and a style; VAE factor 8, 64 x 64 pictures."""
    with seeded(seed):
        first, second = bert_tokenizer(), t5_tokenizer(length=256)
        transformer = HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=LATENTS,
            patch_size=2,
            sample_size=8,
            hidden_size=32,
            num_layers=4,
            mlp_ratio=2.0,
            cross_attention_dim=WIDTH,
            cross_attention_dim_t5=WIDTH,
            pooled_projection_dim=16,
            text_len=77,
            text_len_t5=256,
        )
        pipeline = HunyuanDiTPipeline(
            vae=picture_vae(levels=4, scaling_factor=0.13025, force_upcast=True),
            text_encoder=bert(first),
            tokenizer=first,
            transformer=transformer,
            scheduler=DDPMScheduler(
                beta_start=0.00085,
                beta_end=0.03,
                beta_schedule="scaled_linear",
                prediction_type="v_prediction",
                clip_sample=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            text_encoder_2=t5(second),
            tokenizer_2=second,
        )
        return save(pipeline, "transformer", folder)
