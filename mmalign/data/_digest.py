"""Content digests of records: for ids, for finding equal answers, for the data hash of a run.

A media file counts by its name inside the root, not by its content: reading every picture before the first
step would cost more than the hash is worth, and a picture's content enters the encoding cache's own key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign.clips import Clip
from mmalign.data._paths import File, RatedFile
from mmalign.data._video_parts import CutFile
from mmalign.types import Example, Message, Part, PreferenceSample


def digest(*values: Any) -> str:
    """A 128-bit hex digest of nested records, texts, numbers, bytes, pictures, clips and arrays."""
    pieces: list[bytes] = []
    for value in values:
        _add(value, pieces)
    lengths = ",".join([str(len(piece)) for piece in pieces])  # no two lists of pieces may look alike
    return hashlib.blake2b(b"".join([lengths.encode(), b";", *pieces]), digest_size=16).hexdigest()


def sample_digest(sample: PreferenceSample) -> str:
    """The digest of everything in a sample but its id and origin."""
    return digest(sample.examples, sample.labels, sample.weight)


def _add(value: Any, pieces: list[bytes]) -> None:
    """Append the pieces of one value. The commonest kinds come first: this runs for every row of a file."""
    if isinstance(value, str):
        pieces.append(b"s" + value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, (list, tuple)):
        pieces.append(b"l%d" % len(value))
        for item in value:
            _add(item, pieces)
    elif isinstance(value, Part):
        pieces.append(value.kind.encode())
        _add(value.data, pieces)
    elif isinstance(value, Message):
        pieces.append(value.speaker.encode())
        _add(value.parts, pieces)
    elif isinstance(value, Example):
        _add((value.prompt, value.response, value.labels), pieces)
    elif isinstance(value, (dict, Mapping)):
        pieces.append(b"m%d" % len(value))
        for key in sorted(value):
            _add(key, pieces)
            _add(value[key], pieces)
    elif isinstance(value, File):
        pieces.append(b"f" + value.name.encode("utf-8", "surrogatepass"))
        if isinstance(value, CutFile):
            pieces.append(f"from {value.start!r} to {value.end!r} at {value.rate!r}".encode())
        if isinstance(value, RatedFile):
            pieces.append(f"at {value.rate!r}".encode())
    elif isinstance(value, (bytes, bytearray, memoryview)):
        pieces.append(b"b" + bytes(value))
    elif isinstance(value, Image.Image):
        pieces.append(f"i{value.mode}{value.size}".encode())
        pieces.append(value.tobytes())
    elif isinstance(value, Clip):
        pieces.append(f"c{value.indices}{value.seconds}{value.rate!r}/{value.total}".encode())
        _add(value.frames, pieces)
    elif isinstance(value, Tensor):
        pieces.append(f"t{value.dtype}{list(value.shape)}".encode())
        pieces.append(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        pieces.append(f"a{value.dtype}{value.shape}".encode())
        pieces.append(value.tobytes())
    else:
        pieces.append(f"v{value!r}".encode())  # None, booleans and numbers
