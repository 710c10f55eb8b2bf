"""CogVideoX 2b and 5b (arXiv 2408.06072): velocity over clips whose last noise level is noise alone.

The schedule is upstream's own, shifted towards noise in 2b. Sampling is its DDIM, also where the pipeline is
published with its DPM solver. An even number of latent frames would not decode to the length that it was
encoded from, so clips have 8 k + 1 frames. The 1.5 models and those that start from a picture are not taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from mmalign.adapters._families import Autoencoder, Condition, Family
from mmalign.adapters.families._flow import check_numbers
from mmalign.adapters.families._unet import check_channels
from mmalign.types import UserError

# Entries of configs that only other members of the family have.
_OTHERS = {
    "transformer": ("patch_size_t", "ofs_embed_dim", "use_learned_positional_embeddings"),
    "vae": ("invert_scale_latents", "shift_factor", "latents_mean", "latents_std"),
}


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    for part, names in _OTHERS.items():
        for name in names:
            if found := parts[part].config.get(name):
                raise UserError(
                    f"{folder}/{part}: {name} is {found}; of CogVideoX, 2b and 5b from captions are taken"
                )
    check_channels(folder, parts, "transformer")
    width = parts["text_encoder"].config.d_model
    wanted = {"patch_size": (2, "as in this family"), "text_embed_dim": (width, "the width of text_encoder")}
    check_numbers(folder, parts["transformer"].config, wanted)


def _tokens(pipeline: Any) -> int:
    return int(pipeline.transformer.config.max_text_seq_length)


def _encode(pipeline: Any, captions: list[str], negative: bool) -> dict[str, Tensor]:
    states, _ = pipeline.encode_prompt(
        captions,
        do_classifier_free_guidance=False,
        max_sequence_length=_tokens(pipeline),
        device=pipeline.text_encoder.device,
    )
    return {"states": states}


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    output: Tensor = model(
        hidden_states=noised.transpose(1, 2),
        encoder_hidden_states=condition["states"],
        timestep=time,
        image_rotary_emb=_places(model, noised),
    ).sample
    return output.transpose(1, 2)


def _places(model: Any, noised: Tensor) -> tuple[Tensor, Tensor] | None:
    """Rotary table of the patches of latents [B, C, F, h, w]; None where places are learned inside."""
    config = model.config
    if not config.use_rotary_positional_embeddings:
        return None
    frames, *sides = noised.shape[2:]
    rows, columns = (side // config.patch_size for side in sides)
    whole = config.sample_width // config.patch_size, config.sample_height // config.patch_size
    cosine, sine = get_3d_rotary_pos_embed(
        embed_dim=config.attention_head_dim,
        crops_coords=get_resize_crop_region_for_grid((rows, columns), *whole),
        grid_size=(rows, columns),
        temporal_size=frames,
        device=noised.device,
    )
    return cosine, sine


FAMILY = Family(
    pipeline=CogVideoXPipeline,
    denoiser="transformer",
    models={
        "vae": (AutoencoderKLCogVideoX,),
        "text_encoder": (T5EncoderModel,),
        "transformer": (CogVideoXTransformer3DModel,),
    },
    tokenizers={"tokenizer": T5Tokenizer},
    conditions=("states",),
    encode=_encode,
    predict=_predict,
    caption_lengths=lambda pipeline: (_tokens(pipeline),),
    guidance=6.0,
    video=True,
    autoencoder=Autoencoder(
        factor=lambda pipeline: int(pipeline.vae_scale_factor_spatial),
        frame_factor=lambda pipeline: int(pipeline.vae_scale_factor_temporal),
        frame_step=lambda pipeline: 2 * int(pipeline.vae_scale_factor_temporal),
    ),
    multiple=2,
    num_frames=49,
    frame_rate=8.0,
    scheduler=CogVideoXDDIMScheduler,
    schedulers=("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
    check=_check,
)
