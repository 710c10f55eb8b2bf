"""Stable Diffusion pipelines on disk: strict loading and the family's conditions.

Upstream loaders fill weights that a file lacks with random numbers and only log it; here that is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import CLIPTokenizer

from mmalign.adapters._families import FAMILIES, Family
from mmalign.adapters._loading import (
    check_weights,
    load_tokenizer,
    read_json,
    readable_errors,
    refuse_misfits,
    resolve_folder,
)
from mmalign.adapters._noise import PREDICTIONS
from mmalign.types import UserError

_STEM = "diffusion_pytorch_model"  # file name of diffusers' weights
_MODULES: dict[str, type[Any]] = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}  # beside the towers
# What a UNet of these families must not ask for: conditions that no family gives.
_NO_EXTRAS = ("class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")


@dataclass(frozen=True)
class Parts:
    """A loaded pipeline with what the adapter needs beside it."""

    family: Family
    pipeline: Any  # of the family's class, on the CPU
    folder: Path  # where it was loaded from
    index: Mapping[str, Any]  # its model_index.json
    scheduler_config: Mapping[str, Any]  # as saved
    trained: Any  # DDPMScheduler with the denoiser's noise levels; the pipeline holds a DDIMScheduler
    extras: tuple[str, ...]  # component folders that training does not use, such as a safety checker

    @property
    def encoders(self) -> list[Any]:
        """The text towers, in the family's order."""
        return [self.pipeline.components[tower.encoder] for tower in self.family.towers]

    @property
    def tokenizers(self) -> list[Any]:
        """Their tokenizers."""
        return [self.pipeline.components[tower.tokenizer] for tower in self.family.towers]

    @property
    def zeros_for_empty(self) -> bool:
        """True if the pipeline was trained with zeros in place of the empty caption's states."""
        return _zeros_for_empty(self.family, self.index)


def load_parts(path: str, revision: str | None, variant: str | None, dtype: torch.dtype) -> Parts:
    """Load a pipeline folder or hub id; raises UserError naming the component that does not fit."""
    folder = resolve_folder(path, revision, _wanted_files(variant))
    index = _read_index(folder)
    family = _family_of(folder, index)
    classes = _MODULES | {tower.encoder: tower.model for tower in family.towers}
    _check_components(folder, index, family, classes)
    modules = {name: _load_module(folder / name, cls, variant, dtype) for name, cls in classes.items()}
    tokenizers = {tower.tokenizer: _load_tokenizer(folder / tower.tokenizer) for tower in family.towers}
    config = _read_scheduler(folder / "scheduler" / "scheduler_config.json")
    _check_unet(folder, modules, family)
    _check_towers(folder, {**modules, **tokenizers}, family)
    levels = {**config, "clip_sample": False}  # latents are not bounded to -1..1
    with readable_errors(f"{folder}/scheduler"):
        sampler, trained = DDIMScheduler.from_config(levels), DDPMScheduler.from_config(levels)
    flag = {family.zeros_flag: _zeros_for_empty(family, index)} if family.zeros_flag else {}
    pipeline = family.pipeline(**modules, **tokenizers, scheduler=sampler, **family.settings, **flag)
    return Parts(family, pipeline, folder, index, config, trained, _extras(folder, index, family))


def components_of(family: Family) -> tuple[str, ...]:
    """Names of the components that the adapter uses."""
    return ("vae", *family.encoder_names, *family.tokenizer_names, "unet", "scheduler")


def _zeros_for_empty(family: Family, index: Mapping[str, Any]) -> bool:
    return family.zeros_flag is not None and bool(index.get(family.zeros_flag, True))


# ---------------------------------------------------------------- loading


def _wanted_files(variant: str | None) -> tuple[str, ...]:
    """Patterns of a hub pipeline's files: configs, tokenizer files and one variant of the weights."""
    stems = [stem if variant is None else f"{stem}.{variant}" for stem in ("model", _STEM)]
    weights = [f"*/{stem}{shard}.safetensors" for stem in stems for shard in ("", "-*-of-*")]
    return ("*.json", "tokenizer*/*.txt", *weights)


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / "model_index.json"
    if not file.is_file() and (folder / "tokenizer.json").exists():
        raise UserError(
            f"{folder}: holds a language model, no pipeline (model_index.json); use model.adapter: text"
        )
    if not file.is_file():
        raise UserError(f"{file}: missing; a pipeline folder has one (saved with save_pretrained)")
    return read_json(file)


def _family_of(folder: Path, index: Mapping[str, Any]) -> Family:
    found = index.get("_class_name")
    if found not in FAMILIES:
        raise UserError(
            f"{folder}/model_index.json: pipeline class must be {' or '.join(FAMILIES)} for adapter "
            f"diffusion, got {found}"
        )
    return FAMILIES[found]


def _check_components(
    folder: Path, index: Mapping[str, Any], family: Family, classes: Mapping[str, type[Any]]
) -> None:
    file = folder / "model_index.json"
    used = components_of(family)
    for name in used:
        entry = index.get(name)
        if not isinstance(entry, list) or len(entry) != 2 or entry[1] is None:
            raise UserError(
                f"{file}: component {name} is missing; a {family.pipeline.__name__} needs {', '.join(used)}"
            )
        if name in classes and entry[1] != classes[name].__name__:
            wanted = classes[name].__name__
            raise UserError(f"{file}: component {name} must be of class {wanted}, got {entry[1]}")
        if not (folder / name).is_dir():
            raise UserError(f"{folder}: component folder {name} is missing; copy the whole pipeline")


def _extras(folder: Path, index: Mapping[str, Any], family: Family) -> tuple[str, ...]:
    """Unused components that are there; one that is only named becomes null in what is saved."""
    named = [name for name, entry in index.items() if isinstance(entry, list) and entry[-1] is not None]
    unused = [name for name in named if name not in components_of(family)]
    for name in unused:
        if name != Path(name).name:
            raise UserError(f"{folder}/model_index.json: component name {name!r} is not a folder name")
    return tuple(name for name in unused if (folder / name).is_dir())


def _load_module(folder: Path, cls: type[Any], variant: str | None, dtype: torch.dtype) -> nn.Module:
    """The denoiser in `dtype`; frozen parts in float32, which some autoencoders overflow without."""
    read_json(folder / "config.json")
    trains, tower = cls is UNet2DConditionModel, cls not in _MODULES.values()
    stem = "model" if tower else _STEM
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no .safetensors weights; save the pipeline with safe_serialization=True")
    check_weights(folder, stem if variant is None else f"{stem}.{variant}")
    own: dict[str, Any] = {"dtype": torch.float32}
    if not tower:
        # with low_cpu_mem_usage, one weight of another shape would end it before all are named
        own = {"torch_dtype": dtype if trains else torch.float32, "low_cpu_mem_usage": False}
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # what it would log is raised below
    try:
        with readable_errors(str(folder)):
            module, info = cls.from_pretrained(
                folder,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that all of them are named below
                **own,
            )
    finally:
        diffusers_logging.set_verbosity(level)
    refuse_misfits(info, str(folder))
    return module.eval() if trains else module.eval().requires_grad_(False)


def _load_tokenizer(folder: Path) -> Any:
    if not (folder / "tokenizer.json").exists() and not (folder / "merges.txt").exists():
        raise UserError(f"{folder}: no tokenizer; expected tokenizer.json, or vocab.json with merges.txt")
    return load_tokenizer(folder, CLIPTokenizer)


def _read_scheduler(file: Path) -> dict[str, Any]:
    config = read_json(file)
    prediction = config.get("prediction_type", "epsilon")
    # a schedule without betas is of another kind (flow matching, EDM), whatever it says it predicts
    known = "beta_schedule" in config and "num_train_timesteps" in config
    if prediction not in PREDICTIONS or not known:
        raise UserError(
            f"{file}: {config.get('_class_name')} with prediction_type {prediction!r} is not taken; "
            f"this adapter takes noise schedules with one of {', '.join(PREDICTIONS)}"
        )
    return config


def _check_unet(folder: Path, modules: Mapping[str, Any], family: Family) -> None:
    """The denoiser asks for what this family gives, over this autoencoder's latents."""
    unet, vae = modules["unet"].config, modules["vae"].config
    for key, wanted in {**dict.fromkeys(_NO_EXTRAS), "addition_embed_type": family.addition}.items():
        if unet.get(key) != wanted:
            rule = "null" if wanted is None else wanted
            name = family.pipeline.__name__
            raise UserError(f"{folder}/unet: {key} must be {rule} in a {name}, got {unet[key]!r}")
    if unet.num_class_embeds is not None:
        raise UserError(f"{folder}/unet: class-conditioned denoisers are not taken (num_class_embeds is set)")
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        raise UserError(
            f"{folder}/unet: in_channels {unet.in_channels} and out_channels {unet.out_channels} must both "
            f"be the autoencoder's {vae.latent_channels} latent channels; inpainting models are not taken"
        )
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if vae.get(key):
            raise UserError(f"{folder}/vae: {key} must be null for this family, got {vae[key]}")


def _check_towers(folder: Path, parts: Mapping[str, Any], family: Family) -> None:
    """The text towers fit their tokenizers, each other and the denoiser."""
    unet, configs = parts["unet"].config, [parts[name].config for name in family.encoder_names]
    width = sum(config.hidden_size for config in configs)
    if unet.cross_attention_dim != width:
        raise UserError(
            f"{folder}/unet: cross_attention_dim {unet.cross_attention_dim} must equal the text encoder's "
            f"hidden_size {width}{', both together' if len(configs) > 1 else ''}"
        )
    if family.sized:
        pooled = sum(c.projection_dim for c, t in zip(configs, family.towers, strict=True) if t.pooled)
        given = 6 * unet.addition_time_embed_dim + pooled
        if unet.projection_class_embeddings_input_dim != given:
            raise UserError(
                f"{folder}/unet: projection_class_embeddings_input_dim must be {given}, six sizes and the "
                f"pooled caption, got {unet.projection_class_embeddings_input_dim}"
            )
    for tower, config in zip(family.towers, configs, strict=True):
        if config.to_dict().get("use_attention_mask"):
            raise UserError(f"{folder}/{tower.encoder}: use_attention_mask is not part of this family")
        count = len(parts[tower.tokenizer])
        if count > config.vocab_size:
            raise UserError(
                f"{folder}/{tower.tokenizer}: its {count} tokens exceed the text encoder's "
                f"{config.vocab_size}"
            )


def fitting_resolution(parts: Parts, wanted: int | None) -> int:
    """Side of the pictures in pixels: as wanted, or the pipeline's own. Raises UserError if it cannot be."""
    factor, size = parts.pipeline.vae_scale_factor, parts.pipeline.unet.config.sample_size
    if wanted is None:
        if not isinstance(size, int):
            raise UserError(f"model.resolution: {parts.folder} has no single size ({size}); give a number")
        return int(size) * int(factor)
    if wanted % factor:
        raise UserError(
            f"model.resolution: must be a multiple of {factor}, the autoencoder's factor, got {wanted}"
        )
    return wanted
