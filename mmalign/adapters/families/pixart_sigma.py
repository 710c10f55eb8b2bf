"""PixArt-Sigma (arXiv 2403.04692): a diffusion transformer under the 300 tokens of a masked T5.

Captions are lower-cased and stripped, as upstream does without the package that its `clean_caption` needs.
The network may also predict a variance, which nothing here reads. It is published with a multistep solver;
samples are made by DDIM at even steps that begin at the noisiest level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from mmalign.adapters._families import Condition, Family
from mmalign.adapters.families._flow import check_numbers
from mmalign.types import UserError

_TOKENS = 300


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    config, channels = parts["transformer"].config, parts["vae"].config.latent_channels
    wanted: dict[str, tuple[int, str]] = {
        "patch_size": (2, "as in this family"),
        "in_channels": (channels, "the autoencoder's latent channels"),
        "caption_channels": (parts["text_encoder"].config.d_model, "the width of text_encoder"),
    }
    check_numbers(folder, config, wanted)
    if config.out_channels not in (channels, 2 * channels):
        raise UserError(
            f"{folder}/transformer: out_channels must be {channels}, or {2 * channels} with a variance, got "
            f"{config.out_channels}"
        )
    if parts["transformer"].use_additional_conditions:
        raise UserError(
            f"{folder}/transformer: use_additional_conditions must be false; a PixArtSigmaPipeline tells "
            "its denoiser no sizes"
        )


def _encode(pipeline: Any, captions: list[str], negative: bool) -> dict[str, Tensor]:
    states, mask, _, _ = pipeline.encode_prompt(
        captions, False, device=pipeline.text_encoder.device, max_sequence_length=_TOKENS
    )
    return {"states": states, "mask": mask}


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    output: Tensor = model(
        noised,
        encoder_hidden_states=condition["states"],
        encoder_attention_mask=condition["mask"],
        timestep=time,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    return output[:, : noised.shape[1]]


def _grid(scheduler: Any, steps: int, shape: Sequence[int]) -> None:
    """The solver's config spaces steps from the first level to the last; between those, DDIM would carry
    latents to other levels than the next step is told."""
    scheduler.register_to_config(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)


FAMILY = Family(
    pipeline=PixArtSigmaPipeline,
    denoiser="transformer",
    models={
        "vae": (AutoencoderKL,),
        "text_encoder": (T5EncoderModel,),
        "transformer": (PixArtTransformer2DModel,),
    },
    tokenizers={"tokenizer": T5Tokenizer},
    conditions=("states", "mask"),
    encode=_encode,
    predict=_predict,
    caption_lengths=lambda pipeline: (_TOKENS,),
    guidance=4.5,
    multiple=2,
    grid=_grid,
    check=_check,
    lora_loader=False,
)
