"""Parts of videos: their frames by real times where these are uneven, places and clocks of their own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data.clips import KINDS, numbers, video

from mmalign.clips import Clip, Frames
from mmalign.data._media import _clip
from mmalign.data._paths import File
from mmalign.data._video_decord import require_decord
from mmalign.data._video_parts import CutFile, CutFrames
from mmalign.types import UserError

try:
    require_decord()
    READERS = ["pyav", "decord"]
except UserError:
    READERS = ["pyav"]

# Ten a second for two seconds, then one a second up to the twelfth.
UNEVEN = [10 * place for place in range(20)] + [100 * second for second in range(2, 13)]
ALL = Frames(count=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clips")
    (made / "uneven").write_bytes(video(KINDS["h264 in matroska"], len(UNEVEN), stamps=UNEVEN))
    (made / "even").write_bytes(video(KINDS["h264"], 30, rate=10))
    return made


def part(folder: Path, name: str, start: float, end: float | None, frames: Frames = ALL) -> Clip:
    return _clip(CutFile(str(folder), name, start, end), frames)


@pytest.mark.parametrize("reader", READERS)
def test_uneven_frames_are_cut_by_their_own_times(folder: Path, reader: str) -> None:
    every = Frames(count=64, reader=reader)  # type: ignore[arg-type]
    early = part(folder, "uneven", 0.5, 1.0, every)
    assert numbers(early.frames) == [5, 6, 7, 8, 9, 10] and early.total == 6
    assert early.seconds == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5]) and early.rate == pytest.approx(10)
    late = part(folder, "uneven", 5.0, 9.0, every)
    assert numbers(late.frames) == [23, 24, 25, 26, 27] and late.indices == (0, 1, 2, 3, 4)
    assert late.seconds == pytest.approx([0, 1, 2, 3, 4]) and late.rate == pytest.approx(1)
    assert late.reader == reader


def test_what_is_on_display_counts(folder: Path) -> None:
    """At 6.5 s the frame of 6 s; that of 8 s from its own half mean step (of 0.4 s) on."""
    assert numbers(part(folder, "uneven", 6.5, 7.5).frames) == [24, 25]
    assert numbers(part(folder, "uneven", 7.7, 7.75).frames) == [25]
    assert numbers(part(folder, "uneven", 7.9, 7.95).frames) == [26]
    assert numbers(part(folder, "uneven", 11.5, None).frames) == [29, 30]
    assert numbers(part(folder, "uneven", 12.9, 20.0).frames) == [30]
    with pytest.raises(UserError, match="its part starts at 13 s, and it has 13.0 s"):
        part(folder, "uneven", 13.0, 20.0)


def test_a_rule_by_rate_goes_by_that_of_the_part(folder: Path) -> None:
    slow = part(folder, "uneven", 3.0, 12.0, Frames("fps", 8, fps=0.5))
    assert numbers(slow.frames) == [21, 23, 25, 27, 29] and slow.rate == pytest.approx(1)
    quick = part(folder, "uneven", 0.0, 1.0, Frames("fps", 8, fps=5.0))
    assert numbers(quick.frames) == [0, 2, 4, 6, 8, 10] and quick.rate == pytest.approx(10)


def test_a_part_that_is_the_whole_is_the_whole(folder: Path) -> None:
    for name in ("uneven", "even"):
        whole, cut = _clip(File(str(folder), name), ALL), part(folder, name, 0.0, None)
        assert torch.equal(whole.frames, cut.frames) and replace(cut, frames=whole.frames) == whole
    rounded = [0.0, 0.1, 0.2, 1.9, 2.0]
    assert CutFrames().clip(torch.zeros(1, 3, 2, 2), (0,), rounded, 2.01, "x").rate == 2.01


def test_even_frames_are_cut_by_the_rate(folder: Path) -> None:
    """The same numbers to the last bit: places by round(time * rate), times less first / rate."""
    whole = _clip(File(str(folder), "even"), ALL)
    for start, end in ((0.0, None), (0.25, 1.05), (1.0, 9.0), (2.0, 2.01)):
        clip = part(folder, "even", start, end)
        first = round(start * 10.0)
        last = 29 if end is None else min(round(end * 10.0), 29)
        assert numbers(clip.frames) == list(range(first, last + 1)) and clip.total == last - first + 1
        assert clip.seconds == tuple(one - first / 10.0 for one in whole.seconds[first : last + 1])
        assert clip.rate == whole.rate == 10.0
    with pytest.raises(UserError, match="its part starts at 9 s, and it has 3.0 s"):
        part(folder, "even", 9.0, 10.0)


def test_stamps_that_containers_round_are_even() -> None:
    rounded = [round(place / 30, 2) for place in range(90)]
    cut = CutFrames(count=64, start=0.55, end=1.05)  # round gives 16 and 32
    assert cut.places(rounded, 30.0) == tuple(range(16, 33))
    assert CutFrames(count=64, start=60.0).places([place / 29 for place in range(1800)], 30.0)[0] == 1740


def test_parts_of_one_start_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    kept = Frames(count=3, cache=str(tmp_path / "cache"))
    for _ in range(2):  # decoded, and from the folder
        assert numbers(part(folder, "even", 1.0, 2.0, kept).frames) == [10, 15, 20]
        assert numbers(part(folder, "even", 1.0, 1.4, kept).frames) == [10, 12, 14]
        assert numbers(part(folder, "even", 0.0, 1.4, kept).frames) == [0, 7, 14]
        again = part(folder, "uneven", 5.0, 9.0, kept)
        assert again.indices == (0, 2, 4) and again.seconds == pytest.approx([0, 2, 4])
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 4
