"""A folder of tensors by key: what frozen encoders produced, kept between epochs and runs.

Several processes may use one folder: a file appears whole under its final name or not at all. A file that
does not verify counts as missing and is written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmalign.types import UserError


class TensorCache:
    """`get` and `put` of {name: tensor} records; a file that does not verify is a warning and a miss."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # made with its first entry: a run that is refused before leaves nothing
        self._existing = next(place for place in (folder, *folder.parents) if place.exists())
        if not self._existing.is_dir():
            raise UserError(f"cache {str(folder)!r}: cannot be created: {self._existing} is a file")
        if not os.access(self._existing, os.W_OK):
            raise UserError(f"cache {str(folder)!r}: {self._existing} cannot be written to")

    def path(self, key: str) -> Path:
        """The file of a key: two levels of folders keep every folder small."""
        name = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self.folder / name[:2] / name[2:4] / f"{name[4:]}.safetensors"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The CPU tensors of a key, or None if there is no sound file for it."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            self._reject(path, str(error).splitlines()[0])
            return None
        if meta.get("entry") != json.dumps([key, _digest(tensors)]):
            self._reject(path, "its content does not match its checksum")
            return None
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors of a key, replacing what was there; UserError if the disk does not take them."""
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # one entry, since the writer does not keep the order of several and the bytes would differ
        data = save(ready, metadata={"entry": json.dumps([key, _digest(ready)])})
        path = self.path(key)
        draft = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            os.replace(draft, path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            free = shutil.disk_usage(self._existing).free
            raise UserError(
                f"cache {str(self.folder)!r}: writing {len(data)} bytes failed ({error.strerror}); "
                f"{free} bytes are free on its disk"
            ) from None

    def _reject(self, path: Path, reason: str) -> None:
        warnings.warn(f"cache file {path.name} is damaged and will be made again: {reason}", stacklevel=3)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of names, types, shapes and bytes: the file format itself would load flipped bytes."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
