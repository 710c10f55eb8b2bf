"""A clip for people to see: as one picture of its frames side by side, and as a moving picture in a file."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image

from mmalign.clips import Clip

MAX_FRAMES, COLUMNS, LONGEST, GAP = 8, 4, 128, 2
"""So many frames at most, evenly spread; so many in a row; longest side of one and space between (pixels)."""
_SPACE = (128, 128, 128)


def contact_sheet(clip: Clip) -> Image.Image:
    """Frames of a clip, [T, 3, H, W], as one RGB picture, row by row; large frames are made smaller."""
    total = len(clip.frames)
    shown = min(total, MAX_FRAMES)
    places = [i * (total - 1) // max(1, shown - 1) for i in range(shown)]
    frames = [_picture(clip, place) for place in places]
    for frame in frames:
        frame.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    width, height = frames[0].size
    columns = min(shown, COLUMNS)
    rows = math.ceil(shown / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), _SPACE)
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        sheet.paste(frame, (column * (width + GAP), row * (height + GAP)))
    return sheet


def save_animation(clip: Clip, path: Path) -> None:
    """Write every frame of a clip, without loss, as an animated WebP at the clip's own pace."""
    first, *rest = (_picture(clip, place) for place in range(len(clip.frames)))
    ends = [round(1000 * (i + 1) / clip.sampled_rate) for i in range(len(clip.frames))]  # milliseconds
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    first.save(path, "WEBP", save_all=True, append_images=rest, duration=lengths, loop=0, lossless=True)


def _picture(clip: Clip, place: int) -> Image.Image:
    return Image.fromarray(clip.frames[place].permute(1, 2, 0).contiguous().numpy())
