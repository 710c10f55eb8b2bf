"""Contact sheets: every frame where it belongs, never more than eight, and in a comparison's prompt."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence

from mmalign.clips import Clip
from mmalign.evaluation._sheet import contact_sheet, save_animation
from mmalign.evaluation.compare import _pictures
from mmalign.types import Message, Part


def clip(count: int, side: int = 12) -> Clip:
    """Frame i is one colour throughout: red 10 * i."""
    frames = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    frames[:, 0] = (torch.arange(count) * 10)[:, None, None]
    return Clip(frames, tuple(range(count)), tuple(i / 4 for i in range(count)), 4.0, count, "memory")


def reds(sheet: Image.Image, side: int, rows: int, columns: int) -> list[float]:
    return [
        float(sheet.getpixel((column * (side + 2) + side // 2, row * (side + 2) + side // 2))[0])  # type: ignore[index]
        for row in range(rows)
        for column in range(columns)
    ]


def test_four_frames_stand_in_a_row() -> None:
    sheet = contact_sheet(clip(4))
    assert sheet.size == (4 * 14 - 2, 12)
    assert reds(sheet, 12, 1, 4) == [0, 10, 20, 30]
    assert sheet.getpixel((12, 5)) == (128, 128, 128)


def test_a_long_clip_shows_eight_frames_from_first_to_last() -> None:
    sheet = contact_sheet(clip(15))
    assert sheet.size == (4 * 14 - 2, 2 * 14 - 2)
    assert reds(sheet, 12, 2, 4) == [0, 20, 40, 60, 80, 100, 120, 140]


def test_one_frame_and_large_frames() -> None:
    assert contact_sheet(clip(1)).size == (12, 12)
    assert contact_sheet(clip(2, side=300)).size == (2 * 130 - 2, 128)


def test_a_prompt_shows_pictures_and_clips_but_no_names_of_files() -> None:
    picture = Image.new("RGB", (5, 5))
    parts = (Part("image", picture), Part("video", clip(4)), Part("video", "a.mp4"), Part("text", "What?"))
    seen = _pictures((Message("user", parts),))
    assert [part.kind for part in seen] == ["image", "image"]
    assert seen[0].data is picture and seen[1].data.size == (54, 12)


def test_an_animation_keeps_every_pixel_and_the_pace(tmp_path: Path) -> None:
    """Three frames at 24 per second end at 41.7, 83.3 and 125 milliseconds."""
    noise = torch.randint(0, 256, (3, 3, 10, 14), generator=torch.Generator().manual_seed(0))
    moving = Clip(noise.to(torch.uint8), (0, 1, 2), (0.0, 1 / 24, 2 / 24), 24.0, 3, "memory")
    save_animation(moving, tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as file:
        read, lengths = [], []
        for frame in ImageSequence.Iterator(file):
            read.append(np.array(frame.convert("RGB")))
            lengths.append(frame.info["duration"])
    assert np.array_equal(np.stack(read), moving.frames.permute(0, 2, 3, 1).numpy())
    assert lengths == [42, 41, 42]
