"""The manifest of a checkpoint: which files belong to it, with their sizes and hashes, and its own hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmalign.training import _files

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """One file of a checkpoint."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a manifest says; `read_manifest` has checked its form but not the files."""

    step: int
    world_size: int
    files: tuple[Entry, ...]


def render_manifest(step: int, world_size: int, entries: Sequence[Entry]) -> bytes:
    """The bytes of a manifest; the same content always gives the same bytes."""
    files = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    body: dict[str, Any] = {"format": FORMAT, "step": step, "world_size": world_size, "files": files}
    return _files.json_bytes({**body, "digest": _digest(body)})


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint folder. ValueError if it is not one, or not as it was written; OSError if
    it cannot be read."""
    raw = (path / NAME).read_bytes()
    try:
        tree = _files.read_json(path / NAME)
    except ValueError:
        raise ValueError(f"{NAME} is not JSON") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("format"), int):
        raise ValueError(f"{NAME} has no format number")
    if tree["format"] != FORMAT:
        raise ValueError(f"{NAME} has format {tree['format']}, this version reads {FORMAT}")
    body = {key: value for key, value in tree.items() if key != "digest"}
    # comparing the bytes as well catches a change that JSON would not see
    if tree.get("digest") != _digest(body) or _files.json_bytes(tree) != raw:
        raise ValueError(f"{NAME} was changed after it was written")
    return Manifest(body["step"], body["world_size"], tuple(Entry(**entry) for entry in body["files"]))


def problem(path: Path, step: int) -> str | None:
    """What is wrong with a checkpoint folder that should hold `step`, with the file's name; None if whole."""
    try:
        manifest = read_manifest(path)
        if manifest.step != step:
            return f"{NAME} is of step {manifest.step}"
        for entry in manifest.files:
            if trouble := _mismatch(path, entry):
                return trouble
    except FileNotFoundError:
        return f"{NAME} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{NAME} cannot be used ({error})"
    return None


def _mismatch(path: Path, entry: Entry) -> str | None:
    file = path / entry.name
    if entry.name != file.name or not file.is_file():
        return f"{entry.name} is missing"
    if (size := file.stat().st_size) != entry.size:
        return f"{entry.name} has {size} bytes, the manifest says {entry.size}"
    if _files.sha256(file) != entry.sha256:
        return f"{entry.name} does not match its hash"
    return None


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(_files.json_bytes(body)).hexdigest()
