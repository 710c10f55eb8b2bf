"""Pipelines at their published sizes, with random weights made on the device itself, or at a toy size.

Nothing is read from a disk. Frozen parts are shared by all sides; every side that trains weights of its own
gets the same ones, since they come from one seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _diffusion_inputs import build_tokenizer
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from mmalign.adapters._families import family_of
from mmalign.adapters._pipeline import Parts

_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_UNET_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_UNET_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
_XL_DOWN = ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2
_XL_UP = ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",)


@dataclass(frozen=True)
class Shape:
    """One pipeline by the sizes of its parts; `side` in pixels, `t5` None without that encoder."""

    pipeline: str  # class name
    side: int
    denoiser: Mapping[str, Any]
    vae: Mapping[str, Any]
    clip: Mapping[str, Any]
    clip_2: Mapping[str, Any] | None = None
    t5: Mapping[str, Any] | None = None
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    @property
    def flow(self) -> bool:
        """True for a rectified flow."""
        return self.t5 is not None

    @property
    def latents(self) -> tuple[int, int, int]:
        """C, h, w."""
        side = self.side // 2 ** (len(self.vae["block_out_channels"]) - 1)
        return (self.vae["latent_channels"], side, side)


def _clip(width: int, layers: int, heads: int, act: str, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**sizes, "intermediate_size": 4 * width, "hidden_act": act, "projection_dim": width, **more}


def _vae(channels: tuple[int, ...], latent: int, scale: float, **more: Any) -> dict[str, Any]:
    blocks = len(channels)
    return {
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "block_out_channels": channels,
        "layers_per_block": 2,
        "latent_channels": latent,
        "scaling_factor": scale,
        **more,
    }


def _xl(
    channels: tuple[int, ...], heads: tuple[int, ...], depths: tuple[int, ...], **more: Any
) -> dict[str, Any]:
    return {
        "down_block_types": _XL_DOWN,
        "up_block_types": _XL_UP,
        "block_out_channels": channels,
        "attention_head_dim": heads,
        "transformer_layers_per_block": depths,
        "layers_per_block": 2,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        **more,
    }


_VOCABULARY = {"vocab_size": 49408}
_CLIP_L = _clip(768, 12, 12, "quick_gelu", **_VOCABULARY)
_CLIP_G = _clip(1280, 32, 20, "gelu", **_VOCABULARY)
_WIDE = (128, 256, 512, 512)
_JOINT = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_DIT = {"patch_size": 2, "in_channels": 16, "out_channels": 16}

REAL = {
    "sd15": Shape(
        "StableDiffusionPipeline",
        512,
        {
            "sample_size": 64,
            "down_block_types": _UNET_DOWN,
            "up_block_types": _UNET_UP,
            "block_out_channels": (320, 640, 1280, 1280),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        _vae(_WIDE, 4, 0.18215),
        _CLIP_L,
    ),
    "sdxl": Shape(
        "StableDiffusionXLPipeline",
        1024,
        _xl(
            (320, 640, 1280),
            (5, 10, 20),
            (1, 2, 10),
            sample_size=128,
            cross_attention_dim=2048,
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        _vae(_WIDE, 4, 0.13025),
        _CLIP_L,
        _CLIP_G,
    ),
    "dit": Shape(
        "StableDiffusion3Pipeline",
        1024,
        {
            **_DIT,
            "sample_size": 128,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        },
        _vae(_WIDE, 16, 1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        _CLIP_L,
        _CLIP_G,
        {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
        targets=_JOINT,
    ),
}

_SMALL_CLIP = _clip(32, 2, 4, "gelu", vocab_size=80)
_SMALL_UNET = {"layers_per_block": 1, "norm_num_groups": 4}
_SMALL_VAE = {"norm_num_groups": 4}

TOY = {
    "sd15": Shape(
        "StableDiffusionPipeline",
        32,
        {
            **_SMALL_UNET,
            "sample_size": 16,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (16, 32),
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
        },
        _vae((8, 16), 4, 0.18215, **_SMALL_VAE),
        _SMALL_CLIP,
    ),
    "sdxl": Shape(
        "StableDiffusionXLPipeline",
        32,
        _xl(
            (8, 16, 32),
            (2, 2, 4),
            (1, 1, 2),
            **_SMALL_UNET,
            sample_size=16,
            cross_attention_dim=64,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,
        ),
        _vae((8, 16), 4, 0.13025, **_SMALL_VAE),
        _SMALL_CLIP,
        _SMALL_CLIP,
    ),
    "dit": Shape(
        "StableDiffusion3Pipeline",
        32,
        {
            **_DIT,
            "sample_size": 16,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 64,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 64,
            "pos_embed_max_size": 32,
        },
        _vae(
            (8, 16),
            16,
            1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
            **_SMALL_VAE,
        ),
        _SMALL_CLIP,
        _SMALL_CLIP,
        {"vocab_size": 80, "d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        targets=_JOINT,
    ),
}


@contextmanager
def made_on(device: torch.device, dtype: torch.dtype, seed: int = 0) -> Iterator[None]:
    """Modules made inside have their weights on the device, in that type, from the seed."""
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


@dataclass
class Frozen:
    """What no side trains, once for all of them; text encoders in bfloat16, the autoencoder in float32."""

    shape: Shape
    device: torch.device
    modules: dict[str, nn.Module] = field(default_factory=dict)
    tokenizers: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, shape: Shape, device: torch.device) -> Frozen:
        """Random autoencoder and text encoders."""
        made = cls(shape, device)
        with made_on(device, torch.float32):
            made.modules["vae"] = AutoencoderKL(**shape.vae, sample_size=shape.side)
        first = CLIPTextModelWithProjection if shape.flow else CLIPTextModel
        with made_on(device, torch.bfloat16):
            made._tower("text_encoder", "tokenizer", first, shape.clip)
            if shape.clip_2 is not None:
                made._tower("text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection, shape.clip_2)
            if shape.t5 is not None:
                made._t5(shape.t5)
        for module in made.modules.values():
            module.to(device).eval().requires_grad_(False)
        return made

    def _tower(self, name: str, tokenizer: str, kind: type[Any], sizes: Mapping[str, Any]) -> None:
        read = self.tokenizers[tokenizer] = build_tokenizer()
        ends = {f"{end}_token_id": getattr(read, f"{end}_token_id") for end in ("bos", "eos", "pad")}
        self.modules[name] = kind(CLIPTextConfig(**sizes, **ends)).to(torch.bfloat16)

    def _t5(self, sizes: Mapping[str, Any]) -> None:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -4.0) for c in letters)]
        self.tokenizers["tokenizer_3"] = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
        config = T5Config(**sizes, feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1)
        self.modules["text_encoder_3"] = T5EncoderModel(config).to(torch.bfloat16)

    def denoiser(self, dtype: torch.dtype, device: torch.device | None = None) -> Any:
        """The network that trains: the same weights at every call, but for rounding to `dtype`."""
        kind = SD3Transformer2DModel if self.shape.flow else UNet2DConditionModel
        where = self.device if device is None else device
        with made_on(where, torch.float32, seed=1):
            made = kind(**self.shape.denoiser)
        return made.to(device=where, dtype=dtype).eval()

    def parts(self, dtype: torch.dtype) -> Parts:
        """A whole pipeline as the adapter takes it, with a denoiser of its own."""
        index = {"_class_name": self.shape.pipeline}
        family = family_of(Path("random"), index)
        given = {**self.modules, **self.tokenizers, family.denoiser: self.denoiser(dtype), **family.settings}
        flag = {family.zeros_flag: True} if family.zeros_flag else {}
        pipeline = family.pipeline(**given, **flag, scheduler=self.sampler())
        return Parts(family, pipeline, Path("random"), index, {}, self.noise(), ())

    def noise(self) -> Any:
        """Upstream's scheduler over all noise levels."""
        if self.shape.flow:
            return FlowMatchEulerDiscreteScheduler(shift=3.0)
        return DDPMScheduler(**_NOISE)

    def sampler(self) -> Any:
        """Upstream's scheduler to sample and invert with."""
        if self.shape.flow:
            return FlowMatchEulerDiscreteScheduler(shift=3.0)
        return DDIMScheduler(**_NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
