"""Stable Diffusion pipelines on disk: strict loading, the family's conditions, saving in upstream format.

Upstream loaders fill weights that a file lacks with random numbers and only log it; here that is an error.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from peft import get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

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

PIPELINE = "StableDiffusionPipeline"
USED = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
_STEM = "diffusion_pytorch_model"  # file name of diffusers' weights
_MODULES = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "unet": UNet2DConditionModel}
# What a UNet of this family must not ask for: conditions that the plain call (x, t, states) does not give.
_NO_EXTRAS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
# The part of a LoRA config that its weights do not show; anything else may hold machine paths.
_LORA_KEYS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias")


@dataclass(frozen=True)
class Parts:
    """A loaded pipeline with what the adapter needs beside it."""

    pipeline: Any  # StableDiffusionPipeline on the CPU
    folder: Path  # where it was loaded from
    index: Mapping[str, Any]  # its model_index.json
    scheduler_config: Mapping[str, Any]  # as saved
    trained: Any  # DDPMScheduler with the denoiser's noise levels; the pipeline holds a DDIMScheduler
    extras: tuple[str, ...]  # component folders that training does not use, such as a safety checker


def load_parts(path: str, revision: str | None, variant: str | None, dtype: torch.dtype) -> Parts:
    """Load a pipeline folder or hub id; raises UserError naming the component that does not fit."""
    folder = resolve_folder(path, revision, _wanted_files(variant))
    index = _read_index(folder)
    modules = {name: _load_module(folder / name, name, variant, dtype) for name in _MODULES}
    tokenizer = _load_tokenizer(folder / "tokenizer")
    config = _read_scheduler(folder / "scheduler" / "scheduler_config.json")
    _check_fit(folder, modules, tokenizer)
    levels = {**config, "clip_sample": False}  # latents are not bounded to -1..1
    with readable_errors(f"{folder}/scheduler"):
        sampler, trained = DDIMScheduler.from_config(levels), DDPMScheduler.from_config(levels)
    pipeline = StableDiffusionPipeline(
        **modules,
        tokenizer=tokenizer,
        scheduler=sampler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Parts(pipeline, folder, index, config, trained, _extras(folder, index))


# ---------------------------------------------------------------- loading


def _wanted_files(variant: str | None) -> tuple[str, ...]:
    """Patterns of a hub pipeline's files: configs, tokenizer files and one variant of the weights."""
    stems = [stem if variant is None else f"{stem}.{variant}" for stem in ("model", _STEM)]
    weights = [f"*/{stem}{shard}.safetensors" for stem in stems for shard in ("", "-*-of-*")]
    return ("*.json", "tokenizer/*.txt", *weights)


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / "model_index.json"
    if not file.is_file() and (folder / "tokenizer.json").exists():
        raise UserError(
            f"{folder}: holds a language model, no pipeline (model_index.json); use model.adapter: text"
        )
    if not file.is_file():
        raise UserError(f"{file}: missing; a pipeline folder has one (saved with save_pretrained)")
    index = read_json(file)
    if index.get("_class_name") != PIPELINE:
        raise UserError(
            f"{file}: pipeline class must be {PIPELINE} for adapter diffusion, got {index.get('_class_name')}"
        )
    for name in USED:
        entry = index.get(name)
        if not isinstance(entry, list) or len(entry) != 2 or entry[1] is None:
            raise UserError(f"{file}: component {name} is missing; this adapter needs {', '.join(USED)}")
        if name in _MODULES and entry[1] != _MODULES[name].__name__:
            wanted = _MODULES[name].__name__
            raise UserError(f"{file}: component {name} must be of class {wanted}, got {entry[1]}")
        if not (folder / name).is_dir():
            raise UserError(f"{folder}: component folder {name} is missing; copy the whole pipeline")
    return index


def _extras(folder: Path, index: dict[str, Any]) -> tuple[str, ...]:
    """Unused components that are there; one that is only named becomes null in what is saved."""
    named = [name for name, entry in index.items() if isinstance(entry, list) and entry[-1] is not None]
    unused = [name for name in named if name not in USED]
    for name in unused:
        if name != Path(name).name:
            raise UserError(f"{folder}/model_index.json: component name {name!r} is not a folder name")
    return tuple(name for name in unused if (folder / name).is_dir())


def _load_module(folder: Path, name: str, variant: str | None, dtype: torch.dtype) -> nn.Module:
    read_json(folder / "config.json")
    stem = "model" if name == "text_encoder" else _STEM
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no .safetensors weights; save the pipeline with safe_serialization=True")
    check_weights(folder, stem if variant is None else f"{stem}.{variant}")
    own: dict[str, Any] = {"torch_dtype": dtype if name == "unet" else torch.float32}
    own["low_cpu_mem_usage"] = False  # otherwise one weight of another shape ends it before all are named
    if name == "text_encoder":
        own = {"dtype": torch.float32}
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # what it would log is raised below
    try:
        with readable_errors(str(folder)):
            module, info = _MODULES[name].from_pretrained(
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
    return module.eval() if name == "unet" else module.eval().requires_grad_(False)


def _load_tokenizer(folder: Path) -> Any:
    if not (folder / "tokenizer.json").exists() and not (folder / "merges.txt").exists():
        raise UserError(f"{folder}: no tokenizer; expected tokenizer.json, or vocab.json with merges.txt")
    return load_tokenizer(folder, CLIPTokenizer)


def _read_scheduler(file: Path) -> dict[str, Any]:
    config = read_json(file)
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS or "num_train_timesteps" not in config:
        raise UserError(
            f"{file}: {config.get('_class_name')} with prediction_type {prediction!r} is not taken; "
            f"this adapter takes noise schedules with one of {', '.join(PREDICTIONS)}"
        )
    return config


def _check_fit(folder: Path, modules: Mapping[str, Any], tokenizer: Any) -> None:
    """The components belong to this family and to each other."""
    unet, vae, text = modules["unet"].config, modules["vae"].config, modules["text_encoder"].config
    for key in _NO_EXTRAS:
        if unet.get(key) is not None:
            raise UserError(f"{folder}/unet: {key} must be null for adapter diffusion, got {unet[key]!r}")
    if unet.num_class_embeds is not None:
        raise UserError(f"{folder}/unet: class-conditioned denoisers are not taken (num_class_embeds is set)")
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        raise UserError(
            f"{folder}/unet: in_channels {unet.in_channels} and out_channels {unet.out_channels} must both "
            f"be the autoencoder's {vae.latent_channels} latent channels; inpainting models are not taken"
        )
    if vae.shift_factor:
        raise UserError(f"{folder}/vae: shift_factor must be null for this family, got {vae.shift_factor}")
    if unet.cross_attention_dim != text.hidden_size:
        raise UserError(
            f"{folder}/unet: cross_attention_dim {unet.cross_attention_dim} must equal the text encoder's "
            f"hidden_size {text.hidden_size}"
        )
    if text.to_dict().get("use_attention_mask"):
        raise UserError(f"{folder}/text_encoder: use_attention_mask is not part of this family")
    if len(tokenizer) > text.vocab_size:
        raise UserError(
            f"{folder}/tokenizer: its {len(tokenizer)} tokens exceed the text encoder's {text.vocab_size}"
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


# ---------------------------------------------------------------- identity and saving


def fingerprint_of(parts: Parts) -> str:
    """Hash of the autoencoder's and text encoder's weights and of the tokenizer, wherever they lie."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("vae", "text_encoder"):
        module = parts.pipeline.components[name]
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}.{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    digest.update(repr(parts.pipeline.vae.config.scaling_factor).encode())
    tokenizer = json.loads(parts.pipeline.tokenizer.backend_tokenizer.to_str())
    for call_state in ("truncation", "padding"):  # left behind by the last call
        tokenizer.pop(call_state, None)
    digest.update(json.dumps(tokenizer, sort_keys=True).encode())
    return digest.hexdigest()


def save_pipeline(parts: Parts, model: Any, folder: Path) -> None:
    """Write the whole pipeline with `model` as its denoiser, loadable by StableDiffusionPipeline.

    Components that training does not use (a safety checker, say) are copied from where it was loaded.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError("a model with LoRA layers is saved by naming its adapter, not as a whole model")
    parts.pipeline.vae.save_pretrained(folder / "vae", safe_serialization=True)
    parts.pipeline.text_encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
    parts.pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    _write_json(folder / "scheduler" / "scheduler_config.json", dict(parts.scheduler_config))
    model.save_pretrained(folder / "unet", safe_serialization=True)
    known = {*USED, *parts.extras}
    index = {k: v if k in known or not isinstance(v, list) else [None, None] for k, v in parts.index.items()}
    _write_json(folder / "model_index.json", index)
    present = [name for name in parts.extras if (parts.folder / name).is_dir()]
    for name in present:
        ignored = shutil.ignore_patterns("*.bin", "*.ckpt", "*.msgpack", "*.onnx", "*.h5")
        shutil.copytree(parts.folder / name, folder / name, ignore=ignored, dirs_exist_ok=True)
    for file in sorted(folder.rglob("*.json")):
        _drop_paths(file)
    gone = sorted(set(parts.extras) - set(present))
    if gone:
        raise UserError(
            f"{parts.folder / gone[0]}: was there when the run began; all else is saved in {folder}, "
            "copy this component into it"
        )


def save_lora(model: Any, folder: Path, name: str) -> None:
    """Write the LoRA adapter `name` of a denoiser for `StableDiffusionPipeline.load_lora_weights(folder)`."""
    weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    weights = {key: value.detach().cpu().contiguous() for key, value in sorted(weights.items())}
    config = model.peft_config[name].to_dict()
    metadata = {key: config[key] for key in _LORA_KEYS}
    metadata["target_modules"] = sorted({key.split(".lora_")[0] for key in weights})
    folder.mkdir(parents=True, exist_ok=True)
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=weights, unet_lora_adapter_metadata=metadata, safe_serialization=True
    )
    _sort_header(folder / "pytorch_lora_weights.safetensors")


def _sort_header(file: Path) -> None:
    """Put a safetensors header in order: the library writes several metadata entries in a random one."""
    raw = file.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8:start]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    file.write_bytes(len(header).to_bytes(8, "little") + header + raw[start:])


def _write_json(file: Path, tree: Any) -> None:
    file.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _drop_paths(file: Path) -> None:
    """Remove where a component was loaded from, so that the same weights give the same bytes anywhere."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(tree, dict) and {"_name_or_path", "name_or_path"} & set(tree):
        _write_json(file, {k: v for k, v in tree.items() if k not in ("_name_or_path", "name_or_path")})
