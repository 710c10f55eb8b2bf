"""Diffusion pipelines to disk: identity of the frozen parts, saving in upstream format."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from peft import get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer

from mmalign.adapters._pipeline import Parts
from mmalign.adapters._saving import save_lora as save_peft
from mmalign.types import UserError

# The part of a LoRA config that its weights do not show; anything else may hold machine paths.
_LORA_KEYS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias")


def fingerprint_of(parts: Parts) -> str:
    """Hash of the weights of the autoencoder and the text encoders and of the tokenizers, wherever they lie,
    and of what stands for the empty caption."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("vae", *parts.family.encoders):
        module = parts.pipeline.components[name]
        if module is None:
            continue
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}.{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for values in parts.family.autoencoder.affine(parts.pipeline.vae):
        digest.update(repr(values.tolist()).encode())
    for each in parts.tokenizers:
        tokenizer = json.loads(each.backend_tokenizer.to_str())
        for call_state in ("truncation", "padding"):  # left behind by the last call
            tokenizer.pop(call_state, None)
        digest.update(json.dumps(tokenizer, sort_keys=True).encode())
        if len(parts.tokenizers) > 1:  # the token that fills up a caption may be all that tells them apart
            digest.update(f"\x1f{each.pad_token_id}".encode())
    if parts.zeros_for_empty:
        digest.update(b"\x1fzeros")
    return digest.hexdigest()


def save_pipeline(parts: Parts, model: Any, folder: Path) -> None:
    """Write the whole pipeline with `model` as its denoiser, loadable by the family's pipeline class.

    Components that training does not use (a safety checker, say) are copied from where it was loaded.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError("a model with LoRA layers is saved by naming its adapter, not as a whole model")
    components = parts.pipeline.components
    for name in ("vae", *parts.family.encoders):
        if components[name] is not None:
            components[name].save_pretrained(folder / name, safe_serialization=True)
    for name in parts.family.tokenizers:
        if components[name] is not None:
            for forget in ("no_truncation", "no_padding"):  # left behind by the last call
                getattr(components[name].backend_tokenizer, forget)()
            components[name].save_pretrained(folder / name)
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    scheduler = _saved_scheduler(parts)
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    model.save_pretrained(folder / parts.family.denoiser, safe_serialization=True)
    known = {*parts.family.components, *parts.extras}
    index = {k: v if k in known or not isinstance(v, list) else [None, None] for k, v in parts.index.items()}
    if scheduler.get("_class_name") != parts.scheduler_config.get("_class_name"):
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
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


def save_lora(parts: Parts, model: Any, folder: Path, name: str) -> None:
    """Write the LoRA adapter `name` of a denoiser for the family's `load_lora_weights(folder)`, or, where the
    pipeline has none, as PEFT saves one: `PeftModel.from_pretrained(denoiser, folder)`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not parts.family.lora_loader:
        save_peft(model, folder, name, "", task=None)
        return
    weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    weights = {key: value.detach().cpu().contiguous() for key, value in sorted(weights.items())}
    config = model.peft_config[name].to_dict()
    metadata = {key: config[key] for key in _LORA_KEYS}
    metadata["target_modules"] = sorted({key.split(".lora_")[0] for key in weights})
    kind = parts.family.denoiser
    parts.family.pipeline.save_lora_weights(
        folder,
        **{f"{kind}_lora_layers": weights, f"{kind}_lora_adapter_metadata": metadata},
        safe_serialization=True,
    )
    _sort_header(folder / "pytorch_lora_weights.safetensors")


def beside_lora(parts: Parts) -> str | None:
    """What a pipeline needs beside a LoRA adapter to sample as the run does, as a line for the user."""
    if not _rescaled(parts):
        return None
    return (
        "model.zero_terminal_snr: the LoRA adapter holds no scheduler; sample with it from a scheduler with "
        "rescale_betas_zero_snr=True, as this run does, or export a merged pipeline, which has one"
    )


def _rescaled(parts: Parts) -> bool:
    """True if media are sampled at noise levels that end in pure noise, which those of the files do not."""
    return (
        not parts.family.flow
        and bool(parts.pipeline.scheduler.config.get("rescale_betas_zero_snr"))
        and not parts.scheduler_config.get("rescale_betas_zero_snr")
    )


def _saved_scheduler(parts: Parts) -> dict[str, Any]:
    """The config of the scheduler as the files have it, at the noise levels that the run samples at. A kind
    that knows no rescaling (PNDM) gives way to the run's own sampler."""
    config = dict(parts.scheduler_config)
    if not _rescaled(parts):
        return config
    cls = getattr(diffusers, parts.index["scheduler"][1], None)
    if cls is not None and "rescale_betas_zero_snr" in inspect.signature(cls.__init__).parameters:
        return {**config, "rescale_betas_zero_snr": True}
    sampler = parts.pipeline.scheduler
    taken = inspect.signature(type(sampler).__init__).parameters
    own = {name: value for name, value in sampler.config.items() if name in taken}
    version = {k: v for k, v in config.items() if k == "_diffusers_version"}
    return {"_class_name": type(sampler).__name__, **version, **own}


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
