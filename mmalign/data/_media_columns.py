"""Pictures and clips that a row holds, and columns that look like such although nothing reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image

from mmalign.messages import is_media, kind_of
from mmalign.types import PreferenceSample

_WORDS: dict[Literal["image", "video"], tuple[str, ...]] = {
    "video": ("video", "clip"),
    "image": ("image", "img", "picture", "photo", "frame"),
}
_LONGEST = 300  # characters of a name; what is longer is a text


def holds_media(sample: PreferenceSample) -> bool:
    """Whether a prompt or an answer of the sample has a picture or a clip."""
    examples = [example for group in sample.examples.values() for example in group]
    parts = [part for one in examples for turn in one.prompt for part in turn.parts]
    return any(part.kind != "text" for part in parts + [part for one in examples for part in one.response])


def looks_like(column: str, value: Any) -> Literal["image", "video"] | None:
    """What a column seems to hold, by its value, or by its name where the value may be that of a file."""
    named = [kind for kind, words in _WORDS.items() if any(word in column.lower() for word in words)]
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if isinstance(value, Mapping):
        value = value.get("path") or value.get("bytes")
    if isinstance(value, (bytes, np.ndarray, Image.Image)):
        return named[0] if named else "image"
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST:
        return None
    if is_media(value):
        return kind_of(value)
    return named[0] if named and len(value.split()) == 1 else None
