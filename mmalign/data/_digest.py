"""Content digests of records: for ids, for finding equal answers, for the data hash of a run.

A media file counts by its name inside the root, not by its content: reading every picture before the first
step would cost more than the hash is worth, and a picture's content enters the encoding cache's own key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from mmalign.data._paths import File
from mmalign.types import Example, Message, Part, PreferenceSample


def digest(*values: Any) -> str:
    """A 128-bit hex digest of nested records, texts, numbers, bytes, pictures and arrays."""
    pieces = [piece for value in values for piece in _pieces(value)]
    lengths = ",".join(str(len(piece)) for piece in pieces)  # so that no two lists of pieces look alike
    return hashlib.blake2b(b"".join([lengths.encode(), b";", *pieces]), digest_size=16).hexdigest()


def sample_digest(sample: PreferenceSample) -> str:
    """The digest of everything in a sample but its id and origin."""
    return digest(dict(sample.examples), dict(sample.labels), sample.weight)


def _pieces(value: Any) -> Iterable[bytes]:
    if isinstance(value, str):
        yield b"s" + value.encode("utf-8", "surrogatepass")
    elif isinstance(value, (bytes, bytearray, memoryview)):
        yield b"b" + bytes(value)
    elif isinstance(value, Mapping):
        yield b"m%d" % len(value)
        for key in sorted(value):
            yield from _pieces(key)
            yield from _pieces(value[key])
    elif isinstance(value, (list, tuple)):
        yield b"l%d" % len(value)
        for item in value:
            yield from _pieces(item)
    elif isinstance(value, File):
        yield b"f" + value.name.encode("utf-8", "surrogatepass")
    elif isinstance(value, Part):
        yield from _pieces((value.kind, value.data))
    elif isinstance(value, Message):
        yield from _pieces((value.speaker, value.parts))
    elif isinstance(value, Example):
        yield from _pieces((value.prompt, value.response, value.labels))
    elif isinstance(value, Image.Image):
        yield f"i{value.mode}{value.size}".encode()
        yield value.tobytes()
    elif isinstance(value, np.ndarray):
        yield f"a{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    else:
        yield f"v{value!r}".encode()  # None, booleans and numbers
