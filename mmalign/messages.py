"""What is said and shown: the pieces of prompts and responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Part:
    """One piece of a prompt or response. `data` is a str for text; for an image or video it is whatever the
    source gave (path, bytes or PIL image) until the loader decodes it to a PIL image or a `Clip`."""

    kind: Literal["text", "image", "video"]
    data: Any


@dataclass(frozen=True)
class Message:
    """One turn of a prompt. Speaker "text" marks plain text that no chat template wraps."""

    speaker: Literal["system", "user", "assistant", "text"]
    parts: tuple[Part, ...]
