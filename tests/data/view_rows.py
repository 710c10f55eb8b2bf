"""Rows with pictures and clips for the tests of views."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from mmalign.clips import Clip
from mmalign.data._views import add_views
from mmalign.types import Example, Message, Part, PreferenceSample, View

PIXELS = ("crop", "noise", "black", "gray", "mean_image")
SEEDED = ("crop", "noise", "shuffled_frames", "dropped_frames")


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def places(height: int, width: int, frames: int = 1) -> Tensor:
    """Frames whose first channel is the column and whose second is the row of a pixel."""
    grid = torch.zeros(frames, 3, height, width)
    grid[:, 0] = torch.linspace(0, 255, width)[None, :]
    grid[:, 1] = torch.linspace(0, 255, height)[:, None]
    return grid.round().to(torch.uint8)


def picture(number: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator(number))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def clip(frames: int, number: int = 0) -> Clip:
    """Frame t starts with the value 10 t + number, the rest is noise."""
    pixels = torch.randint(0, 256, (frames, 3, 6, 8), generator=generator(100 + number)).to(torch.uint8)
    pixels[:, 0, 0, 0] = (10 * torch.arange(frames) + number).to(torch.uint8)
    indices = tuple(range(0, 3 * frames, 3))
    return Clip(pixels, indices, tuple(i / 8 for i in indices), 8.0, 3 * frames, "test")


def prompt(*media: Image.Image | Clip, text: str = "what is it?") -> tuple[Message, ...]:
    parts = [Part("video" if isinstance(one, Clip) else "image", one) for one in media]
    return (Message("user", (*parts, Part("text", text))), Message("assistant", (Part("text", "well"),)))


def seen(*media: Image.Image | Clip, name: str = "a", text: str = "what is it?") -> PreferenceSample:
    """A pair about the given media; the response holds a picture too, which no change may touch."""
    answer = (Part("text", "red"), Part("image", picture(99)))
    examples = {role: (Example(prompt(*media, text=text), answer),) for role in ("chosen", "rejected")}
    return PreferenceSample(name, examples, origin=f"test row {name}")


def made(sample: PreferenceSample, change: str, seed: int = 0, partner: Any = None) -> Example:
    """The chosen side under a change."""
    view = {"view": View("chosen", change)}
    if partner is None and change == "mean_image":
        partner = seen(clip(3, 8), picture(9, (9, 9)))
    partners = {} if partner is None else {"view": partner}
    return add_views(sample, partners, view, {"view": seed}).examples["view"][0]


def media_of(example: Example) -> list[np.ndarray]:
    """Pixels of the prompt's pictures [H, W, 3] and clips [T, 3, H, W]."""
    parts = [part for turn in example.prompt for part in turn.parts if part.kind != "text"]
    return [p.data.frames.numpy() if isinstance(p.data, Clip) else np.asarray(p.data) for p in parts]
