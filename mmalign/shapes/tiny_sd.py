"""The parts of a tiny Stable-Diffusion-type pipeline, built from scratch with the usual classes.

Pictures are 32 x 32; the autoencoder halves each side, so latents are 4 x 16 x 16. Words of captions are one
token each, and 16 text positions are enough. Roughly 3 million weights in all.
"""

import json
from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mmalign.shapes.scenes import COLOURS, KINDS, NUMBERS, PICTURE, RELATIONS, SIZES

LATENT_CHANNELS, LATENT_SIDE = 4, PICTURE // 2
TEXT_POSITIONS, TEXT_WIDTH = 16, 64
_START, _END = "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """Every word that a caption can contain, sorted."""
    plurals = [f"{kind}s" for kind in KINDS]
    relations = [word for relation in RELATIONS for word in relation.split()]
    return sorted({"a", *COLOURS, *KINDS, *plurals, *SIZES, *NUMBERS.values(), *relations})


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer in which each caption word is one token and any other text still encodes, by bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary: dict[str, int] = {}
    for token in (*alphabet, *(f"{symbol}</w>" for symbol in alphabet)):
        vocabulary[token] = len(vocabulary)
    merges = _merges(words())
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    for token in (_START, _END):
        vocabulary[token] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_POSITIONS)


def _merges(vocabulary: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, learnt from a word list until every word is one token."""
    core = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    core.train_from_iterator(vocabulary, trainer)
    return [(left, right) for left, right in json.loads(core.to_str())["model"]["merges"]]


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text tower with random weights: ids [N, 16] to states [N, 16, 64]."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_vae() -> AutoencoderKL:
    """An autoencoder with random weights: pictures [N, 3, 32, 32] in -1..1 to latents [N, 4, 16, 16]."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=PICTURE,
        mid_block_add_attention=False,
    )


def build_unet() -> UNet2DConditionModel:
    """A denoiser with random weights over latents [N, 4, 16, 16]; attention at 8 x 8 and 4 x 4."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )


def build_scheduler() -> DDIMScheduler:
    """The usual Stable Diffusion noise levels, with the velocity as the target."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def assemble(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, vae: AutoencoderKL, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """Put the parts into a pipeline without a safety checker."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Captions to ids [N, 16], padded as the pipeline pads them."""
    encoded = tokenizer(
        texts, padding="max_length", max_length=TEXT_POSITIONS, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids
