"""Clips that are folders of frames: pictures in the natural order of their names, at the row's own rate."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmalign.clips import ASSUMED_RATE, Clip, Frames
from mmalign.data._paths import File, RatedFile, folder_of, is_media, kind_of, read_file
from mmalign.types import PreferenceSample, UserError

MAX_FRAMES = 100_000


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that puts 2 before 10: runs of digits count as numbers, all else as text without case."""
    pieces = re.split(r"([0-9]+)", name)
    numbers = ((0, int(one), "") if place % 2 else (1, 0, one.lower()) for place, one in enumerate(pieces))
    return (*numbers, (1, 0, name))


def frame_names(folder: Path) -> list[str]:
    """The pictures of a folder in natural order; hidden files, other files and folders in it do not count."""
    found = [
        one.name
        for one in folder.iterdir()
        if not one.name.startswith(".") and is_media(one.name) and kind_of(one.name) == "image"
    ]
    return sorted(found, key=natural)


def read_folder(file: File, frames: Frames, decode: Callable[[File], Image.Image]) -> Clip | None:
    """The chosen frames of a folder; None if the file is none. Only these are opened.

    A folder runs at the rate its row tells, else at ASSUMED_RATE. Raises UserError for a folder without
    pictures or with too many, naming a frame that cannot be read, and for frames of different sizes.
    """
    folder = folder_of(file)
    if folder is None:
        return None
    names = frame_names(folder)
    if not names:
        raise UserError("a folder without pictures; a clip that is a folder holds its frames")
    if len(names) > MAX_FRAMES:
        raise UserError(f"a folder of {len(names)} frames; the limit is {MAX_FRAMES}")
    rate = file.rate if isinstance(file, RatedFile) else ASSUMED_RATE
    if (len(names) - 1) / rate > frames.max_seconds:
        seconds = (len(names) - 1) / rate
        raise UserError(f"{seconds:.0f} s long; model.frames.max_seconds is {frames.max_seconds:g}")
    stamps = [place / rate for place in range(len(names))]
    places = frames.places(stamps, rate)
    pictures = []
    for place in places:
        try:
            pictures.append(np.array(decode(File(file.root, f"{file.name}/{names[place]}"))))
        except UserError as error:
            raise UserError(f"frame {names[place]!r}: {error}") from None
    sizes = sorted({f"{one.shape[1]}x{one.shape[0]}" for one in pictures})
    if len(sizes) > 1:
        raise UserError(f"its frames have different sizes ({' and '.join(sizes[:2])}); make them one size")
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return frames.clip(pixels, places, stamps, rate, "folder")


def unrated_folders(samples: Iterable[PreferenceSample]) -> int:
    """How many different clips of some samples are folders of frames whose rate no row tells."""
    parts = (
        part
        for sample in samples
        for group in sample.examples.values()
        for example in group
        for parts in (*(turn.parts for turn in example.prompt), example.response)
        for part in parts
        if part.kind == "video"
    )
    names = {part.data for part in parts if type(part.data) is File and not is_media(part.data.name)}
    return sum(folder_of(file) is not None for file in names)


def frames_content(file: File) -> list[object] | None:
    """What a folder of frames is read from: its rate, every frame's name and bytes; None for no folder."""
    folder = folder_of(file)
    if folder is None:
        return None
    rate = file.rate if isinstance(file, RatedFile) else ASSUMED_RATE
    names = frame_names(folder)
    return [rate, *([name, read_file(File(file.root, f"{file.name}/{name}"))] for name in names)]
