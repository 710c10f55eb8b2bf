"""What the UNet families of Stable Diffusion have in common: what their denoiser must not ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mmalign.adapters._families import Condition
from mmalign.types import UserError

# Conditions that no family of UNets gives.
_NO_EXTRAS = ("class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")


def check_unet(folder: Path, parts: Mapping[str, Any], addition: str | None, family: str) -> None:
    """The denoiser asks for what the family gives, over this autoencoder's latents. Raises UserError."""
    unet, vae = parts["unet"].config, parts["vae"].config
    for key, wanted in {**dict.fromkeys(_NO_EXTRAS), "addition_embed_type": addition}.items():
        if unet.get(key) != wanted:
            rule = "null" if wanted is None else wanted
            raise UserError(f"{folder}/unet: {key} must be {rule} in a {family}, got {unet[key]!r}")
    if unet.get("num_class_embeds") is not None:
        raise UserError(f"{folder}/unet: class-conditioned denoisers are not taken (num_class_embeds is set)")
    check_channels(folder, parts, "unet")
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if vae.get(key):
            raise UserError(f"{folder}/vae: {key} must be null for this family, got {vae[key]}")


def user_of(condition: Condition) -> dict[str, Tensor] | None:
    """What the attention layers are told of the user, [B, tokens, width], where they are told of one."""
    return {"user": condition["user"]} if "user" in condition else None


def check_channels(folder: Path, parts: Mapping[str, Any], denoiser: str) -> None:
    """Latents go in and come out as the autoencoder has them. Raises UserError."""
    config, channels = parts[denoiser].config, parts["vae"].config.latent_channels
    if not config.in_channels == config.out_channels == channels:
        raise UserError(
            f"{folder}/{denoiser}: in_channels {config.in_channels} and out_channels {config.out_channels} "
            f"must both be the autoencoder's {channels} latent channels; inpainting models are not taken"
        )


def check_width(folder: Path, parts: Mapping[str, Any], encoders: Sequence[str]) -> None:
    """The text states are as wide as the denoiser attends to. Raises UserError."""
    unet, width = parts["unet"].config, sum(parts[name].config.hidden_size for name in encoders)
    if unet.cross_attention_dim != width:
        raise UserError(
            f"{folder}/unet: cross_attention_dim {unet.cross_attention_dim} must equal the text encoder's "
            f"hidden_size {width}{', both together' if len(encoders) > 1 else ''}"
        )
    for name in encoders:
        if parts[name].config.to_dict().get("use_attention_mask"):
            raise UserError(f"{folder}/{name}: use_attention_mask is not part of this family")
