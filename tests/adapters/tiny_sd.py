"""A Stable Diffusion pipeline of random weights: 32 x 32 pictures, 4 x 16 x 16 latents, 77 text positions."""

import string
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mmalign.types import Example, Message, Part, PreferenceSample

SIDE = 32
_WIDTH = 32


def build_tokenizer() -> CLIPTokenizer:
    """Letters and their word-final forms, two merges, start and end tokens."""
    symbols = [c for c in string.printable if not c.isspace()]
    merges = [("c", "a"), ("ca", "t</w>")]
    tokens = [*symbols, *(f"{c}</w>" for c in symbols), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def build_pipeline(prediction: str = "epsilon", seed: int = 0, side: int = SIDE) -> StableDiffusionPipeline:
    """The parts with seeded random weights, in float32 on the CPU; `side`: pixels of a picture's edge."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=side,
    )
    unet = UNet2DConditionModel(
        sample_size=side // 2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
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


def save_pipeline(folder: Path, prediction: str = "epsilon", seed: int = 0, side: int = SIDE) -> Path:
    """Write the pipeline into `folder` and return it."""
    build_pipeline(prediction, seed, side).save_pretrained(folder, safe_serialization=True)
    return folder


def picture(seed: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A picture of smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def prompt(caption: str) -> tuple[Message, ...]:
    """A caption as the one message of a prompt."""
    return (Message("user", (Part("text", caption),)),)


def example(caption: str, image: Image.Image) -> Example:
    """A picture under its caption."""
    return Example(prompt(caption), (Part("image", image),))


def pair(name: str, caption: str, chosen: Image.Image, rejected: Image.Image) -> PreferenceSample:
    """Two pictures under one caption."""
    examples = {"chosen": (example(caption, chosen),), "rejected": (example(caption, rejected),)}
    return PreferenceSample(name, examples, origin=f"pairs.jsonl row {name}")


def pairs(count: int = 3) -> tuple[PreferenceSample, ...]:
    """Pairs of different pictures under different captions."""
    return tuple(
        pair(f"s{i}", f"cat {i}", picture(2 * i, 40 + i, 36), picture(2 * i + 1)) for i in range(count)
    )
