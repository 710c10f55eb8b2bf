"""Wan 2.1 (arXiv 2503.20314): a flow over clips under UMT5, whose captions are filled up with zeros.

Noise levels in training are shifted as the published solver's are (`flow_shift`: 3 at 480 pixels, 5 at 720);
`timesteps.shift` replaces that. Sampling is Euler's method over even steps shifted once, where upstream ships
UniPC. The two denoisers of Wan 2.2 and models that start from a picture are not taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import Tensor
from transformers import T5Tokenizer, UMT5EncoderModel

from mmalign.adapters._families import Autoencoder, Condition, Family
from mmalign.adapters._loading import read_json
from mmalign.adapters.families._flow import check_numbers, even_grid_by_size
from mmalign.types import UserError

_TOKENS = 512


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    index = read_json(folder / "model_index.json")
    for name in ("transformer_2", "boundary_ratio", "expand_timesteps"):
        if (found := index.get(name)) and found != [None, None]:
            raise UserError(
                f"{folder}/model_index.json: {name} is {found}; of Wan, models with one denoiser at one time "
                "for all latents are taken, as 2.1"
            )
    config, vae = parts["transformer"].config, parts["vae"].config
    if tuple(config.patch_size) != (1, 2, 2):
        raise UserError(f"{folder}/transformer: patch_size must be (1, 2, 2), got {tuple(config.patch_size)}")
    for name in ("image_dim", "added_kv_proj_dim"):
        if config.get(name) is not None:
            raise UserError(f"{folder}/transformer: {name} must be null: models with pictures are not taken")
    channels = (vae.z_dim, "the autoencoder's latent channels")
    width = (parts["text_encoder"].config.d_model, "the width of text_encoder")
    wanted = {"in_channels": channels, "out_channels": channels, "text_dim": width}
    check_numbers(folder, config, wanted)
    for name in ("latents_mean", "latents_std"):
        if len(vae.get(name) or ()) != vae.z_dim:
            raise UserError(f"{folder}/vae: {name} must hold {vae.z_dim} numbers, one for each channel")


def _affine(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean, and one over the standard deviation, of every channel."""
    return torch.tensor(vae.config.latents_mean), 1.0 / torch.tensor(vae.config.latents_std)


def _encode(pipeline: Any, captions: list[str], negative: bool) -> dict[str, Tensor]:
    states, _ = pipeline.encode_prompt(
        captions,
        do_classifier_free_guidance=False,
        max_sequence_length=_TOKENS,
        device=pipeline.text_encoder.device,
    )
    return {"states": states}


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    output: Tensor = model(
        hidden_states=noised, timestep=time, encoder_hidden_states=condition["states"]
    ).sample
    return output


FAMILY = Family(
    pipeline=WanPipeline,
    denoiser="transformer",
    models={
        "vae": (AutoencoderKLWan,),
        "text_encoder": (UMT5EncoderModel,),
        "transformer": (WanTransformer3DModel,),
    },
    tokenizers={"tokenizer": T5Tokenizer},
    conditions=("states",),
    encode=_encode,
    predict=_predict,
    caption_lengths=lambda pipeline: (_TOKENS,),
    guidance=5.0,
    flow=True,
    video=True,
    autoencoder=Autoencoder(
        affine=_affine,
        factor=lambda pipeline: int(pipeline.vae_scale_factor_spatial),
        frame_factor=lambda pipeline: int(pipeline.vae_scale_factor_temporal),
    ),
    multiple=2,
    num_frames=81,
    frame_rate=16.0,
    grid=even_grid_by_size,
    check=_check,
)
