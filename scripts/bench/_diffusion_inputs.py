"""What both sides of the diffusion benchmark load: a pipeline of random weights, and pairs of pictures."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIDE = 128
PAIRS = 8  # different ones, used in turn
RANK = 8
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LR, CLIP = 1e-5, 1.0
# of Diffusion-DPO, the half of the squared error included. No time depends on it; with random weights errors
# are about 1, and at the published 2000 their last bit in float32 already moves a loss by 1e-4
BETA = 500.0
MAPO_BETA, MAPO_K, TRAIN_TIMESTEPS = 0.1, 0.5, 1000
INVERSION_BETA, INVERSION_STEPS, INVERSION_GUIDANCE = 2000.0, 6, 2.0
_TEXT_WIDTH = 160


@dataclass(frozen=True)
class Draws:
    """What is random about scoring one pair: `timestep` [1], and [1, C, h, w] `noise` and `latent_noise`."""

    timestep: Tensor
    noise: Tensor
    latent_noise: Tensor


def build_tokenizer() -> CLIPTokenizer:
    """Letters, their word-final forms, start and end tokens: a caption's tokens are its letters."""
    symbols = string.ascii_lowercase + string.digits
    tokens = [*symbols, *(f"{c}</w>" for c in symbols), "<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=ids, merges=[], model_max_length=77)


def build_pipeline() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 at a fifth of its width: a UNet of 34 million weights over 4 x 16 x 16 latents, an
    autoencoder, and half of the text tower's 12 layers; random, in float32.

    One picture through the autoencoder costs 1.24 times one forward of the UNet; at 512 pixels and full width
    that is 1.39, of XL at 1024 pixels 0.72.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        num_hidden_layers=6,
        num_attention_heads=8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(24, 48, 96, 96),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
    )
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(64, 128, 256, 256),
        layers_per_block=2,
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_inputs(folder: Path) -> None:
    """model/, a saved pipeline, and pairs.jsonl with its PNG files. All pictures have the trained size, so
    that how either side resizes makes no difference."""
    build_pipeline().save_pretrained(folder / "model", safe_serialization=True)
    draw = np.random.default_rng(1)
    lines = []
    for pair in range(PAIRS):
        row: dict[str, Any] = {"prompt": " ".join(_words(draw, 6))}
        for role in ("chosen", "rejected"):
            coarse = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            file = f"{role}-{pair}.png"
            Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / file)
            row[role] = {"image": file}
        lines.append(json.dumps(row) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")


def _words(draw: np.random.Generator, count: int) -> Iterable[str]:
    letters = list(string.ascii_lowercase)
    return ["".join(draw.choice(letters, 6)) for _ in range(count)]


def read_pairs(folder: Path) -> list[tuple[str, Tensor]]:
    """Caption and pixels [2, 3, H, W] in -1..1, the chosen picture first, of every pair."""
    found = []
    for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        pictures = [Image.open(folder / row[role]["image"]) for role in ("chosen", "rejected")]
        pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0
        found.append((row["prompt"], scaled))
    return found


@torch.no_grad()
def perturb(model: nn.Module) -> None:
    """The same small change of what trains on every side. With LoRA's B at 0, or with a copy equal to its
    reference, every loss is what it is at the start and a comparison sees nothing."""
    draw = torch.Generator().manual_seed(2)
    named = {plain(name): p for name, p in model.named_parameters() if p.requires_grad}
    for name in sorted(named):
        weight = named[name]
        if "lora_A" in name:
            size, keep = weight.shape[1] ** -0.5, 0.0
        elif "lora_B" in name:
            size, keep = 0.05, 0.0
        else:
            size, keep = 0.003 * float(weight.std()) if weight.numel() > 1 else 0.0, 1.0
        weight.copy_(keep * weight + size * torch.randn(weight.shape, generator=draw))


def plain(name: str) -> str:
    """A trained weight's name whatever LoRA's adapter is called."""
    return name.replace(".default.", ".").replace(".policy.", ".")


def touch(*modules: nn.Module) -> None:
    """Read all weights: they are mapped from their files, and peak memory should not count that."""
    for module in modules:
        for tensor in module.state_dict().values():
            tensor.sum()
