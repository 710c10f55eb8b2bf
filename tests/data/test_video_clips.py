"""Real clips: phones, films, generated ones and broken ones, each with its own outcome."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from mmalign.clips import Clip, Frames
from mmalign.data._paths import File
from mmalign.data._video import decode_video
from mmalign.types import UserError

NO_DECORD = importlib.util.find_spec("decord") is None
READERS = [
    "pyav",
    pytest.param("decord", marks=pytest.mark.skipif(NO_DECORD, reason="decord is not installed")),
]
REFUSED = {
    "corrupt_stream.mp4": r"^damaged: 28 of 50 frames can be read, then 'Invalid data",
    "truncated.mp4": r"^cannot be opened \(Invalid data.*\): damaged or cut off$",
    "truncated.webm": r"^cut off: its data hold 7 frames and end at 0.29 s, its header promises 1.00 s",
    "audio_only.wav": r"^no video in it",
}
FILES = [
    *REFUSED,
    *(f"bbb_{name}" for name in ("opening_30s.webm", "rope_1s.webm", "wake_5s.mp4")),
    *("chaplin_10s.mp4", "sintel_snow_2s.mp4", "testcard_timecode_2s.mp4", "smpte_counter_10s.mp4"),
    *("red_dot_alpha.webm", "newtons_cradle.gif", "vfr_rotated180.mp4", "no_duration.webm"),
    *(f"rotate_{angle}.mov" for angle in (0, 90, 180, 270)),
    *("unordered_pts.mov", "aircraft_11s.mp4", "one_pixel.mp4"),
    *(f"generation_pairs/example_{number}_{side}.mp4" for number in (1, 3) for side in "AB"),
]
# Read by PyAV even if decord is asked for: of another codec or kind, or refused or misread by decord.
PLAIN = {
    "bbb_opening_30s.webm",
    "bbb_rope_1s.webm",
    "newtons_cradle.gif",
    "no_duration.webm",
    "one_pixel.mp4",
}


@pytest.fixture(scope="module")
def facts(test_data: Path) -> dict[str, dict[str, Any]]:
    """What is on record of each clip: size, frames, mean rate and rotation."""
    rows = (json.loads(line) for line in (test_data / "video" / "videos.jsonl").open())
    return {row["file"]: row for row in rows}


@pytest.fixture(scope="module")
def read(test_data: Path) -> Callable[..., Clip]:
    """Decodes a clip of the test data by name."""

    def read(name: str, count: int = 5, reader: str = "pyav") -> Clip:
        return decode_video(File(str(test_data / "video"), name), Frames(count=count, reader=reader))  # type: ignore[arg-type]

    return read


def test_every_clip_has_an_outcome(facts: dict[str, dict[str, Any]]) -> None:
    assert set(FILES) == set(facts)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", FILES)
def test_outcomes(
    name: str, reader: str, facts: dict[str, dict[str, Any]], read: Callable[..., Clip]
) -> None:
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            read(name, reader=reader)
        return
    fact, clip = facts[name], read(name, reader=reader)
    width, height = fact["width"], fact["height"]
    if abs(fact["rotation"]) == 90:
        width, height = height, width
    chosen = Frames(count=5).choose(fact["frames"], 1.0)
    assert clip.frames.shape == (len(chosen), 3, height, width)
    assert (clip.total, clip.indices) == (fact["frames"], chosen)
    assert clip.reader == ("pyav" if name in PLAIN else reader)
    if name == "newtons_cradle.gif":  # its header's 50 is not the mean: 36 frames, the last after 0.8 s
        assert clip.rate == pytest.approx(35 / 0.8)
    else:
        assert clip.rate == pytest.approx(fact["avg_fps"], rel=1e-4)
    assert clip.seconds[-1] == pytest.approx((clip.total - 1) / clip.rate, rel=0.01, abs=2e-3)


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_flags_turn_the_stored_pictures(angle: int, test_data: Path, read: Callable[..., Clip]) -> None:
    """The flag names a turn clockwise; all four clips show a keyboard, and its letters upright."""
    with av.open(test_data / "video" / f"rotate_{angle}.mov") as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    shown = np.stack([np.rot90(picture, -angle // 90) for picture in stored])
    assert np.array_equal(read(f"rotate_{angle}.mov").frames.permute(0, 2, 3, 1).numpy(), shown)


@pytest.mark.skipif(NO_DECORD, reason="decord is not installed")
@pytest.mark.parametrize("name", [name for name in FILES if name not in PLAIN and name not in REFUSED])
def test_both_readers_give_the_same_pixels(name: str, read: Callable[..., Clip]) -> None:
    assert torch.equal(read(name, 3).frames, read(name, 3, "decord").frames)


def test_the_test_card_counts_its_frames(read: Callable[..., Clip]) -> None:
    """The burned-in time code changes from frame to frame, and only there."""
    frames = read("testcard_timecode_2s.mp4", 50).frames.numpy().astype(int)
    changes = [np.abs(later - earlier).max() for earlier, later in zip(frames, frames[1:], strict=False)]
    assert len(changes) == 49 and min(changes) > 60
