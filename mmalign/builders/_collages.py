"""Several pictures in one prompt as MIA-DPO puts them there (arXiv 2410.17637): a sequence, a grid, one in
another. Sizes of the grid are those of the released code, in pixels of a cell of 448."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mmalign.types import Message, Part

Layout = Literal["sequence", "collage", "pic_in_pic"]
Box = tuple[int, int, int, int]  # left, top, right, bottom

GRIDS = {2: (1, 2), 3: (1, 3), 4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Number of pictures -> rows and columns of a collage."""
INNER = 0.7  # of the outer picture's width and height that the inner one may take
PHRASES = (
    "Regarding the central image",
    "Looking at the image in the middle",
    "About the picture placed in the centre",
    "With the inner image in mind",
    "Considering only the small picture in the middle",
    "In the image at the centre",
)

_CELL, _STRIP, _GAP = 448, 40, 40
_LEAST = 10  # pixels of a strip whose number can be read


@dataclass(frozen=True)
class Composed:
    """A picture made of several: what it shows, and where its target is."""

    picture: Image.Image
    target: Box


def grid(pictures: Sequence[Image.Image], target: int, cell: int = _CELL) -> Composed:
    """A collage of 2, 3, 4, 6 or 9 pictures, each in the upper left of its white cell below a strip with its
    number; `target` counts from 0."""
    rows, columns = GRIDS[len(pictures)]
    strip, gap = max(_LEAST, _STRIP * cell // _CELL), max(1, _GAP * cell // _CELL)
    size = columns * cell + (columns - 1) * gap, rows * (strip + cell) + (rows - 1) * gap
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(8, strip * 3 // 4))
    boxes = []
    for number, one in enumerate(pictures):
        left = number % columns * (cell + gap)
        top = number // columns * (strip + cell + gap)
        draw.text((left + 2, top + strip // 8), f"Image{number + 1}", fill="black", font=font, anchor="lt")
        shrunk = _fitting(one, cell, cell)
        canvas.paste(shrunk, (left, top + strip))
        boxes.append((left, top + strip, left + shrunk.width, top + strip + shrunk.height))
    return Composed(canvas, boxes[target])


def inside(target: Image.Image, ground: Image.Image) -> Composed:
    """The target in the centre of another picture."""
    canvas = ground.convert("RGB")
    inner = _fitting(target, int(canvas.width * INNER), int(canvas.height * INNER))
    left, top = (canvas.width - inner.width) // 2, (canvas.height - inner.height) // 2
    canvas.paste(inner, (left, top))
    return Composed(canvas, (left, top, left + inner.width, top + inner.height))


def _fitting(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture as large as fits, its aspect kept."""
    scale = min(width / picture.width, height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def noised(picture: Image.Image, box: Box | None, sigma: float, seed: int) -> Image.Image:
    """The picture with Gaussian noise of that deviation, in steps of 8-bit values, in a box (None: all over);
    values are clipped."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32).copy()
    left, top, right, bottom = box or (0, 0, picture.width, picture.height)
    part = pixels[top:bottom, left:right]
    noise = torch.randn(part.shape, generator=torch.Generator().manual_seed(seed)).numpy()
    pixels[top:bottom, left:right] = part + sigma * noise
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def squared(picture: Image.Image) -> Image.Image:
    """The picture in the middle of a white square: processors that crop to one then crop nothing."""
    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


# ---------------------------------------------------------------- prompts


def shown(layout: Layout, pictures: Sequence[Image.Image]) -> tuple[Part, ...]:
    """The beginning of the first turn: the pictures, those of a sequence with their numbers."""
    if layout != "sequence":
        return (Part("image", pictures[0]), Part("text", "\n"))
    parts: list[Part] = []
    for number, one in enumerate(pictures, 1):
        parts += [Part("text", f"{chr(10) if number > 1 else ''}Image{number}:"), Part("image", one)]
    return (*parts, Part("text", "\n"))


def asked(question: str, lead: str) -> str:
    """A question after the words that name its picture."""
    return f"{lead}, {question[:1].lower()}{question[1:]}"


def several(turns: Sequence[Message], media: Sequence[Part], lead: str) -> tuple[Message, ...]:
    """The turns about one picture as turns about several: `media` at the front of the first that asks, `lead`
    in each that does."""
    done = []
    front: tuple[Part, ...] = tuple(media)
    for turn in turns:
        text = "".join(part.data for part in turn.parts if part.kind == "text")
        if turn.speaker not in ("user", "text"):
            done.append(turn)
            continue
        joined = [*front, Part("text", asked(text.strip(), lead))]
        if len(joined) > 1 and joined[-2].kind == "text":
            joined[-2:] = [Part("text", joined[-2].data + joined[-1].data)]
        done.append(Message(turn.speaker, tuple(joined)))
        front = ()
    return tuple(done)
