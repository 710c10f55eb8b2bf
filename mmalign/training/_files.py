"""File operations that survive a crash: each is one call, so that a test can fail any one of them.

A file counts as written once its bytes and the folder that names it have both reached the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


def write_bytes(path: Path, data: bytes) -> None:
    """Create `path` with `data`; it is not on the disk before `sync`."""
    path.write_bytes(data)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Create a safetensors file; it is not on the disk before `sync`."""
    save_file(dict(tensors), path)
    path.chmod(path.parent.stat().st_mode & 0o666)  # that library writes files only their owner can read


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(source: Path, target: Path) -> None:
    """Move within one folder; a file that stands at `target` is replaced."""
    os.rename(source, target)


def make_folder(path: Path) -> None:
    """Create a folder that must not exist yet."""
    path.mkdir()


def remove_tree(path: Path) -> None:
    """Delete a folder with all it holds; links inside it are removed, never followed."""
    shutil.rmtree(path)


def replace_bytes(path: Path, data: bytes) -> None:
    """Give `path` new content at once: a reader sees the old file or the new one, also after a crash."""
    fresh = path.with_name(f".{path.name}.tmp")
    try:
        write_bytes(fresh, data)
        sync(fresh)
        rename(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync(path.parent)


def json_bytes(value: Any) -> bytes:
    """Strict JSON (no NaN, no infinity) with sorted keys, one way of writing each value.

    Raises ValueError for what JSON would not give back as it was: tuples, keys that are not strings, NaN.
    """
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    if not _same(json.loads(text), value):
        raise ValueError(
            "only dicts with string keys, lists, strings, numbers, booleans and null fit in JSON"
        )
    return text.encode("utf-8", "surrogatepass") + b"\n"


def read_json(path: Path) -> Any:
    """The value of a JSON file; ValueError if it is none."""
    return json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written where `folder` lies; it need not exist yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _same(back: Any, value: Any) -> bool:
    """True if `back` is `value` with the same types all the way down; 1, 1.0 and True are three values."""
    if isinstance(value, dict):
        return (
            isinstance(back, dict)
            and back.keys() == value.keys()
            and all(_same(back[k], value[k]) for k in value)
        )
    if isinstance(value, list):
        return isinstance(back, list) and len(back) == len(value) and all(map(_same, back, value))
    return type(back) is type(value) and back == value
