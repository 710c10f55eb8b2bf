"""Chosen frames of clips on disk, by the content of the clip and the rule, so that none is decoded twice.

Any number of runs and processes may share a folder. Its size is bounded part by part, of sixteen: keys
are spread evenly over them, so that whoever writes looks only at the part that it writes to.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import PIL
import torch
from torch import Tensor

from mmalign.clips import Clip, Frames
from mmalign.data._cache import TensorCache
from mmalign.data._digest import digest
from mmalign.types import UserError

PARTS = 16
_FORMAT = 1  # to be raised when decoding gives other pixels for the same file
_BYTES = 1 << 30


def cached(content: object, frames: Frames, decode: Callable[[], Clip]) -> Clip:
    """The clip that `decode` makes of this content, from the folder `frames.cache` if it is there.

    `content`: the bytes of the file, or those of all frames of a folder. What is broken is not kept. A disk
    that takes no more is told once, and the clip comes all the same.
    """
    if frames.cache is None:
        return decode()
    files = TensorCache(Path(frames.cache).expanduser())
    key = digest(_FORMAT, PIL.__version__, torch.__version__, frames.fingerprint(), _limits(frames), content)
    found = files.get(key)
    if found is not None:
        return _clip(found)
    clip = decode()
    tensors = _tensors(clip)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    share = int(frames.cache_gb * _BYTES / PARTS)
    if size > share:
        return clip
    _make_room(files.path(key), share - size)
    try:
        files.put(key, tensors)
    except UserError as error:
        warnings.warn(f"frames are not kept: {error}", stacklevel=2)
    return clip


def _limits(frames: Frames) -> str:
    return f"{frames.max_pixels} {frames.max_seconds!r}"


def _make_room(path: Path, limit: int) -> None:
    """Remove the oldest entries of the part that `path` belongs to until at most `limit` bytes are left."""
    first = path.parent.parent.name[0]
    entries = []
    for entry in path.parent.parent.parent.glob(f"{first}?/*/*.safetensors"):
        with suppress(OSError):  # another process may remove it
            state = entry.stat()
            entries.append((state.st_mtime_ns, state.st_size, entry))
    held = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if held <= limit:
            return
        entry.unlink(missing_ok=True)
        held -= size


def _tensors(clip: Clip) -> dict[str, Tensor]:
    return {
        "frames": clip.frames,
        "indices": torch.tensor([*clip.indices, clip.total], dtype=torch.int64),
        "seconds": torch.tensor([*clip.seconds, clip.rate], dtype=torch.float64),
        "reader": torch.tensor(list(clip.reader.encode()), dtype=torch.uint8),
    }


def _clip(tensors: dict[str, Tensor]) -> Clip:
    *indices, total = tensors["indices"].tolist()
    *seconds, rate = tensors["seconds"].tolist()
    reader = bytes(tensors["reader"].tolist()).decode()
    return Clip(tensors["frames"], tuple(indices), tuple(seconds), rate, total, reader)
