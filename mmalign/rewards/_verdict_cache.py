"""Answers of writers on disk, by all that was asked and who was: one small file each.

Any number of runs and processes may share a folder; a file is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mmalign.clips import Clip
from mmalign.types import Message, Part, UserError


def key_of(who: str, question: Sequence[Message]) -> str:
    """What names the answer to a question, media decoded, of the writer that `who` tells from others."""
    digest = hashlib.sha256()

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)

    add(who.encode("utf-8", "surrogatepass"))
    for turn in question:
        add(b"turn " + turn.speaker.encode())
        for part in turn.parts:
            add(part.kind.encode())
            for piece in _content(part):
                add(piece)
    return digest.hexdigest()


def _content(part: Part) -> list[bytes]:
    data = part.data
    if isinstance(data, str) and part.kind == "text":
        return [data.encode("utf-8", "surrogatepass")]
    if isinstance(data, Image.Image):
        return [f"{data.mode} {data.size}".encode(), data.tobytes()]
    if isinstance(data, Clip):
        told = f"{tuple(data.frames.shape)} {data.indices} {data.seconds}"
        return [told.encode(), data.frames.contiguous().numpy().tobytes()]
    raise UserError(f"a {part.kind} of a question to a judge is not decoded, a {type(data).__name__}")


def read(folder: Path, key: str) -> str | None:
    """The answer under a key; None where there is none, or none that can be read."""
    try:
        found = json.loads(_file(folder, key).read_bytes())
    except (OSError, ValueError):
        return None
    answer = found.get("answer") if isinstance(found, dict) else None
    return answer if isinstance(answer, str) else None


def write(folder: Path, key: str, answer: str) -> None:
    """Keep an answer. Raises UserError if the disk takes none."""
    path = _file(folder, key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(json.dumps({"answer": answer}).encode())
            os.chmod(name, path.parent.stat().st_mode & 0o666)  # others may share the folder
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cache: {folder} takes no verdicts ({error.strerror or error})") from error


def _file(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.json"
