"""What a frozen reference is called in caches: everything that its scores depend on besides row and draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmalign.adapters._loading import resolve_folder
from mmalign.config import RunConfig, to_tree, without_frame_cache
from mmalign.data._digest import digest
from mmalign.training._files import sha256
from mmalign.training.reference import frozen_dtype, weights_hash
from mmalign.types import Adapter, UserError

_CONTENT = (".safetensors", ".bin", ".json")


def reference_name(config: RunConfig, adapter: Adapter, note: Callable[[str], None]) -> str:
    """A name that changes with the reference's weights and with how a run scores with it; `note` hears where
    a change of the weights would not show."""
    model = without_frame_cache(to_tree(config)["model"])
    model.pop("generation", None)
    adapted = starts_adapted(config)
    if config.reference.path:
        # its files do not say in which type it is loaded, as the hash of weights below does
        source = f"{_version(config.reference.path, note)} in {frozen_dtype(config)}"
    else:
        source = weights_hash(adapter.policy, without_lora=not adapted)
    section = to_tree(config)["lora"] if adapted else None
    named = [source, adapter.fingerprint(), config.train.precision, str(model), str(section)]
    return digest([*named, "segments"] if "segments" in config.objective.needs else named)


def starts_adapted(config: RunConfig) -> bool:
    """True if training starts from a saved LoRA adapter."""
    return config.lora is not None and config.lora.path is not None


def _version(path: str, note: Callable[[str], None]) -> str:
    """A folder by what its files hold, a hub id by the commit that it stands for now, or, where the hub and
    its local cache say nothing, by its name."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        files = sorted(file for file in folder.rglob("*") if file.suffix in _CONTENT)
        return digest([(file.name, file.stat().st_size, sha256(file)) for file in files])
    try:
        return f"{path}@{resolve_folder(path, None, ('*.json',)).name}"  # a snapshot's folder is its commit
    except UserError:
        note(
            f"reference.path {path}: its version cannot be looked up, so what is cached goes by this name "
            "alone; should the model under it change, remove the cache"
        )
        return path
