"""Animated WebP, which the demuxers of PyAV do not read: frames by Pillow, times by the file's own chunks."""

from __future__ import annotations

import io
import itertools

import numpy as np
import torch
from PIL import Image

from mmalign.clips import Clip, Frames
from mmalign.data._video_container import MAX_FRAMES, check_seconds, clock
from mmalign.types import UserError

_REMEDY = "fetch it again or leave the row out"
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError)
_ANIMATED = 2  # the flag in the header's first byte


def is_animation(data: bytes) -> bool:
    """Whether the bytes begin as those of a WebP file that says it is animated."""
    return (
        data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) >= 30 and bool(data[20] & _ANIMATED)
    )


def read(data: bytes, frames: Frames) -> Clip:
    """The chosen frames, what is transparent in them on white; each is shown as long as its chunk says.

    Raises UserError for a file that is cut off or damaged, holds no frame, or is above the limits.
    """
    width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    if width * height > frames.max_pixels:
        raise UserError(
            f"{width}x{height} is more than model.frames.max_pixels {frames.max_pixels}; make it smaller"
        )
    shown = _durations(data)
    if not shown:
        raise UserError("holds no frame")
    check_seconds(sum(shown), frames)
    stamps, rate = clock([0.0, *itertools.accumulate(shown[:-1])], 0.0)
    places = frames.places(stamps, rate)
    pictures = _pictures(data, places, len(shown))
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return frames.clip(pixels, places, stamps, rate, "pillow")


def _durations(data: bytes) -> list[float]:
    """How long each frame is shown, in seconds, by the chunks of the file."""
    found: list[float] = []
    at, end = 12, 8 + int.from_bytes(data[4:8], "little")
    while at + 8 <= min(end, len(data)):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > len(data):
            break
        if data[at : at + 4] == b"ANMF":
            found.append(int.from_bytes(data[at + 20 : at + 23], "little") / 1000)
        if len(found) > MAX_FRAMES:
            raise UserError(f"more than {MAX_FRAMES} frames; cut the video into pieces")
        at += 8 + size + size % 2
    if min(at, end) < end or end > len(data) + 1:
        raise UserError(f"cut off: its data hold {len(found)} frames, its header promises more; {_REMEDY}")
    return found


def _pictures(data: bytes, places: tuple[int, ...], total: int) -> list[np.ndarray]:
    """The frames [H, W, 3] at `places`; every frame is decoded, so that damage in any of them is found."""
    pictures: list[np.ndarray] = []
    place, wanted = 0, frozenset(places)
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            for place in range(total):
                image.seek(place)
                image.load()
                if place in wanted:
                    clear = image.convert("RGBA")
                    white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
                    pictures.append(np.asarray(Image.alpha_composite(white, clear).convert("RGB")))
    except _BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"damaged: frame {place} of {total} cannot be read ({reason}); {_REMEDY}") from None
    return pictures
