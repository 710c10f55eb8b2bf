"""A clip as one picture: its frames side by side, in the order in which they are seen."""

from __future__ import annotations

import math

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
    frames = [Image.fromarray(clip.frames[place].permute(1, 2, 0).contiguous().numpy()) for place in places]
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
