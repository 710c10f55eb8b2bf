"""A folder of tensors by key: what frozen encoders produced, kept between epochs and runs.

Several processes may use one folder: a file appears whole under its final name or not at all. A process that
is killed while it writes leaves a draft, which a later one clears away. A file that does not verify is taken
away and counts as missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmalign.types import UserError

_DRAFTS = "drafts"
_ABANDONED = 3600  # seconds after which a draft belongs to no process that still writes it


class TensorCache:
    """`get` and `put` of {name: tensor} records; a file that does not verify is counted, and a miss."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged = 0  # files met so far that did not verify
        self._clean = False
        self._sound: dict[Path, tuple[int, int]] = {}  # size and time of files that this process verified
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
        try:
            state = path.stat()
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            self._reject(path, str(error).splitlines()[0])
            return None
        seen = (state.st_size, state.st_mtime_ns)
        if self._sound.get(path) == seen:  # hashing every read would cost as much as reading
            return tensors
        if meta.get("entry") != json.dumps([key, _digest(tensors)]):
            self._reject(path, "its content does not match its checksum")
            return None
        self._sound[path] = seen
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors of a key, replacing what was there; UserError if the disk does not take them."""
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # one entry, since the writer does not keep the order of several and the bytes would differ
        data = save(ready, metadata={"entry": json.dumps([key, _digest(ready)])})
        path, draft = self.path(key), self.folder / _DRAFTS / f"{uuid.uuid4().hex}.tmp"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.parent.mkdir(exist_ok=True)
            self._clear_drafts()
            draft.write_bytes(data)
            os.replace(draft, path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise UserError(
                f"cache {str(self.folder)!r}: writing {len(data)} bytes failed ({error.strerror}); "
                f"{self.free()} bytes are free on its disk"
            ) from None

    def holds(self, key: str) -> bool:
        """True if there is a file for the key, which nobody has found damaged yet."""
        return self.path(key).exists()

    def free(self) -> int:
        """Bytes that can still be written to the disk of the folder."""
        return shutil.disk_usage(self._existing).free

    def used(self) -> int:
        """Bytes on the disk that the folder's entries take; looks at every file."""
        return sum(path.stat().st_blocks * 512 for path in self.folder.rglob("*.safetensors"))

    def _clear_drafts(self) -> None:
        """Once per process, remove what processes that were killed have left."""
        if self._clean:
            return
        self._clean = True
        for draft in (self.folder / _DRAFTS).iterdir():
            with suppress(OSError):  # another process may be clearing too
                if time.time() - draft.stat().st_mtime > _ABANDONED:
                    draft.unlink()

    def _reject(self, path: Path, reason: str) -> None:
        """Remove and count a file; a line for the first, the tenth, the hundredth and so on."""
        with suppress(OSError):
            path.unlink()
        self.damaged += 1
        if str(self.damaged).rstrip("0") == "1":
            count = "" if self.damaged == 1 else f" ({self.damaged} such files so far)"
            line = f"cache file {path.name} is damaged and will be made again{count}: {reason}"
            warnings.warn(line, stacklevel=3)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of names, types, shapes and bytes: the file format itself would load flipped bytes."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
