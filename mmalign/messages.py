"""What is said and shown: the pieces of prompts and responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Part:
    """One piece of a prompt or response. `data` is a str for text; for an image or video it is whatever the
    source gave (path, bytes or PIL image) until the loader decodes it to a PIL image or a `Clip`. A sampled
    text that ended only because it had no room for more tokens is not `whole`, and equal to one that is."""

    kind: Literal["text", "image", "video"]
    data: Any
    whole: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Message:
    """One turn of a prompt. Speaker "text" marks plain text that no chat template wraps."""

    speaker: Literal["system", "user", "assistant", "text"]
    parts: tuple[Part, ...]


CRITIQUE = "Critique this answer."
"""What is asked after an answer, of models that write a critique before they score it."""


def criticised(prompt: tuple[Message, ...], response: tuple[Part, ...]) -> tuple[Message, ...]:
    """The prompt of a critique of the response: a further turn, or after plain text further lines."""
    if prompt[-1].speaker == "text":
        ask = Part("text", f"\n{CRITIQUE}\n")
        return (*prompt[:-1], Message("text", (*prompt[-1].parts, *response, ask)))
    return (*prompt, Message("assistant", response), Message("user", (Part("text", CRITIQUE),)))


_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
_VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg"})


def kind_of(name: str) -> Literal["image", "video"]:
    """What a media file is by the ending of its name; anything but a video's is taken for a picture."""
    return "video" if Path(name).suffix.lower() in _VIDEOS else "image"


def is_media(name: str) -> bool:
    """Whether the ending of a name is that of a picture or of a clip."""
    return Path(name).suffix.lower() in _PICTURES | _VIDEOS
