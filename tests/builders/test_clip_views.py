"""Views of clips: which frames they hold, and that what is left out takes no time."""

from pathlib import Path

import pytest
import torch

from mmalign.builders._candidates import Asked
from mmalign.builders._clip_views import VideoView, denser, piece
from mmalign.builders._media import encoded, whole_clip
from mmalign.builders._whole_rows import Pool
from mmalign.data._paths import File
from mmalign.types import Clip, Frames, Message, Part


def clip(count: int = 10, step: int = 3, rate: float = 6.0) -> Clip:
    """Every third frame of a clip at 6 a second: two frames a second, each one colour."""
    frames = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 2, 2)
    places = tuple(step * i for i in range(count))
    return Clip(frames, places, tuple(p / rate for p in places), rate, step * count, "memory")


def shown(one: Clip) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in one.frames]


def test_a_segment_is_a_clip_of_its_own() -> None:
    part = VideoView(segment=(1.0, 2.5)).of(clip())
    assert shown(part) == [2, 3, 4]
    assert part.indices == (0, 3, 6) and part.seconds == pytest.approx((0.0, 0.5, 1.0))
    assert part.total == 9 and part.rate == 6.0 and part.sampled_rate == pytest.approx(2.0)


def test_what_is_dropped_leaves_no_gap() -> None:
    rest = VideoView(drop=(1.0, 2.5)).of(clip())
    assert shown(rest) == [0, 1, 5, 6, 7, 8, 9]
    assert rest.indices == tuple(3 * i for i in range(7))
    assert rest.seconds == pytest.approx(tuple(0.5 * i for i in range(7)))
    assert rest.total == 21


def test_segment_and_rest_share_no_frame_and_hold_all() -> None:
    whole = clip()
    for first, count in ((0, 3), (4, 2), (8, 2)):
        span = piece(whole, first, count)
        part, rest = (shown(VideoView(**{name: span}).of(whole)) for name in ("segment", "drop"))
        assert part == list(range(first, first + count))
        assert sorted(part + rest) == list(range(10))


def test_fewer_frames_keep_their_times() -> None:
    thin = VideoView(num_frames=4).of(clip())
    assert shown(thin) == [0, 3, 6, 9]  # int(linspace(0, 9, 4))
    assert thin.indices == (0, 9, 18, 27) and thin.total == 30
    slow = VideoView(fps=1.0).of(clip())
    assert shown(slow) == [0, 2, 4, 6, 8] and slow.seconds == pytest.approx((0, 1, 2, 3, 4))
    both = VideoView(segment=(0.0, 3.0), num_frames=2).of(clip())
    assert shown(both) == [0, 5]


def test_a_view_without_frames_is_no_clip() -> None:
    with pytest.raises(ValueError, match="leaves no frame of 10"):
        VideoView(segment=(7.0, 9.0)).of(clip())


def test_a_view_tells_what_it_is() -> None:
    assert VideoView(segment=(1 / 3, 2.0), num_frames=8).told() == {"segment": [0.333, 2.0], "num_frames": 8}
    assert VideoView().told() == {}
    assert shown(VideoView().of(clip())) == list(range(10))


def asked(name: str, data: object) -> Asked:
    return Asked(name, (Message("user", (Part("video", data), Part("text", "What?"))),))


def test_denser_clips_are_read_from_their_source(tmp_path: Path) -> None:
    whole = whole_clip(clip())
    (tmp_path / "whole.mkv").write_bytes(encoded(Part("video", whole), "clip")[0])
    (tmp_path / "broken.mkv").write_bytes(b"none")
    source = {name: asked(name, File(str(tmp_path), f"{name}.mkv")) for name in ("whole", "broken")}
    few = VideoView(num_frames=4).of(whole)
    short = VideoView(segment=(0.0, 1.0)).of(whole)
    pool = Pool([*source.values(), asked("short", short)], Frames(count=4))
    seen = [asked("whole", few), asked("broken", few), asked("short", short)]
    found = denser(seen, pool, 8)
    dense, reason = found["whole"], found["broken"]
    assert isinstance(dense, Clip) and dense.indices == (0, 1, 2, 3, 5, 6, 7, 9)  # int(linspace(0, 9, 8))
    assert isinstance(reason, str) and "broken.mkv" in reason
    assert found["short"] is short, "all its frames are there"
