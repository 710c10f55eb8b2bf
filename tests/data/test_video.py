"""Videos: the frames that come out are those whose numbers are painted in."""

import importlib.util
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import KINDS, can_write, numbered, numbers, video
from PIL import Image
from samples import pair

from mmalign.clips import Clip, Frames
from mmalign.data import _video_pyav
from mmalign.data._media import decode, decode_image
from mmalign.data._paths import File
from mmalign.data._sources import load
from mmalign.data._video import decode_video
from mmalign.data._video_container import clock, scan
from mmalign.data.jsonl import Jsonl
from mmalign.types import Part, UserError

DECORD = importlib.util.find_spec("decord") is not None
needs_decord = pytest.mark.skipif(not DECORD, reason="decord is not installed (extra: video)")
READERS = ["pyav", pytest.param("decord", marks=needs_decord)]
H264 = KINDS["h264"]
ALL = Frames(count=1000)


# ---------------------------------------------------------------- which frames


def test_places_of_the_published_rules() -> None:
    assert Frames("uniform", 8).choose(300, 30) == (0, 42, 85, 128, 170, 213, 256, 299)
    assert Frames("segment", 8).choose(300, 30) == (18, 56, 93, 131, 168, 206, 243, 281)
    assert Frames("fps", 8, fps=2.0).choose(60, 30) == (0, 15, 30, 45)
    assert Frames("fps", 4, fps=2.0).choose(300, 30) == Frames("uniform", 4).choose(300, 30)
    assert Frames("fps", 8, fps=2.0).choose(5, 0.5) == (0, 1, 2, 3, 4)
    assert Frames("leading", 4, fps=8.0).choose(300, 24) == (0, 3, 6, 9)
    assert Frames("leading", 4, fps=8.0).choose(8, 24) == (0, 3, 6)  # too short: none is shown twice
    assert Frames("leading", 4, fps=8.0).choose(300, 5) == (0, 1, 2, 3)
    for sampling in ("uniform", "segment", "fps"):
        assert Frames(sampling, 8).choose(1, 25) == (0,)  # type: ignore[arg-type]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", KINDS)
def test_painted_numbers_are_the_places(name: str, reader: str) -> None:
    if not can_write(KINDS[name]):
        pytest.skip(f"this build of PyAV has no encoder {KINDS[name].codec}")
    data = video(KINDS[name])
    for sampling in ("uniform", "segment", "fps"):
        frames = Frames(sampling, 7, 5.0, reader)  # type: ignore[arg-type]
        clip = decode_video(data, frames)
        assert clip.indices == frames.choose(30, 25.0)
        assert numbers(clip.frames) == list(clip.indices)
        assert clip.seconds == pytest.approx([place / 25 for place in clip.indices])
        assert (clip.rate, clip.total, clip.frames.dtype) == (25.0, 30, torch.uint8)
    assert numbers(decode_video(data, ALL).frames) == list(range(30))
    assert clip.reader == (reader if name in ("h264", "h264 in matroska", "vp9") else "pyav")


@needs_decord
def test_both_readers_give_the_same_clip() -> None:
    for name in ("h264", "vp9"):
        one, other = (
            decode_video(video(KINDS[name]), Frames("segment", 5, reader=r)) for r in ("pyav", "decord")
        )
        assert torch.equal(one.frames, other.frames)
        assert replace(one, frames=other.frames, reader="decord") == other


def test_decord_is_refused_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="decord is not installed; pip install 'mmalign.video.'"):
        decode_video(video(H264, 5), Frames(reader="decord"))


@pytest.mark.parametrize("count", [1, 2, 13])
def test_short_and_odd_videos(count: int) -> None:
    for name in ("h264", "gif"):
        clip = decode_video(video(KINDS[name], count), Frames(count=64))
        assert numbers(clip.frames) == list(range(count)) and clip.total == count
    assert decode_video(video(H264, 1), Frames()).sampled_rate == 25.0


def test_time_stamps_of_uneven_frames() -> None:
    stamps = [0, 3, 10, 20, 21, 22, 50, 60, 70, 71, 72, 90]
    clip = decode_video(video(KINDS["h264 in matroska"], 12, stamps=stamps), ALL)
    assert numbers(clip.frames) == list(range(12))
    assert clip.seconds == pytest.approx([stamp / 100 for stamp in stamps])
    assert clip.rate == pytest.approx(11 / 0.9)
    assert clip.sampled_rate == pytest.approx(11 / 0.9)
    late = decode_video(video(H264, 12, stamps=[stamp + 300 for stamp in stamps]), ALL)
    assert late.seconds == clip.seconds  # counted from the first frame on


def test_rates_and_stamps_that_are_missing() -> None:
    assert clock([0.0, 0.5, 1.0], 0.0) == ((0.0, 0.5, 1.0), 2.0)
    assert clock([1.0, 1.5, 2.0], 2.01) == ((0.0, 0.5, 1.0), 2.01)  # the header's, which stamps may round
    assert clock([0.0, 0.5, 1.0], 50.0) == ((0.0, 0.5, 1.0), 2.0)
    assert clock([0.0, 0.5, 1.0], 2.03) == ((0.0, 0.5, 1.0), 2.0)
    assert clock([0.0, None, 1.0], 2.0) == ((0.0, 0.5, 1.0), 2.0)
    assert clock([0.0, 0.5, 0.25], 4.0) == ((0.0, 0.25, 0.5), 4.0)
    assert clock([None, None], 0.0) == ((0.0, 1 / 24), 24.0)
    assert clock([5.0], 0.0) == ((0.0,), 24.0)


def test_packets_that_hold_another_number_of_frames() -> None:
    data = video(KINDS["mpeg4"])
    header = scan(data, ALL)
    for wrong in (header.stamps[:-3], (*header.stamps, 1.2, 1.24)):
        for sampling in ("uniform", "segment", "fps"):
            frames = Frames(sampling, 7, 5.0)  # type: ignore[arg-type]
            clip = _video_pyav.read(data, replace(header, stamps=wrong), frames)
            assert clip.indices == frames.choose(30, 25.0) and clip.total == 30
            assert numbers(clip.frames) == list(clip.indices)


def test_fingerprints_tell_rules_and_readers_apart() -> None:
    import av

    rules = [(s, c, f) for s in ("uniform", "fps", "leading") for c in (4, 8) for f in (1.0, 2.0)]
    prints = {Frames(*rule).fingerprint() for rule in rules}  # type: ignore[arg-type]
    assert len(prints) == 10  # the rate counts only where it is read
    assert all(av.__version__ in one for one in prints)
    assert Frames(timeout_s=1.0, max_seconds=5.0, reader="pyav").fingerprint() == Frames().fingerprint()
    if DECORD:
        assert Frames(reader="decord").fingerprint() not in prints


# ---------------------------------------------------------------- pictures


def test_quarter_turns() -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for rotation, turns in {0: 0, 90: 1, -90: 3, 180: 2, -180: 2, -89: 3, 44: 0}.items():
        assert np.array_equal(_video_pyav.upright(picture, rotation), np.rot90(picture, turns))


def test_transparency_is_laid_on_white() -> None:
    dots = [Image.new("P", (8, 6), 0) for _ in range(3)]
    for number, dot in enumerate(dots):
        dot.putpalette([9, 9, 9, 200, 30, 20])
        dot.putpixel((number, 2), 1)
    stream = io.BytesIO()
    dots[0].save(
        stream, "GIF", save_all=True, append_images=dots[1:], transparency=0, disposal=2, duration=100
    )
    clip = decode_video(stream.getvalue(), ALL)
    assert clip.rate == pytest.approx(10) and clip.total == 3
    for number, frame in enumerate(clip.frames):
        assert frame[:, 2, number].tolist() == [200, 30, 20]
        assert frame[:, 5, 7].tolist() == [255, 255, 255]
    first = np.asarray(decode_image(stream.getvalue()))
    assert np.array_equal(clip.frames[0].permute(1, 2, 0).numpy(), first)


# ---------------------------------------------------------------- clips in memory


def test_arrays_and_tensors() -> None:
    array = np.stack([numbered(number) for number in range(30)])
    for data in (array, torch.from_numpy(array), array.transpose(0, 3, 1, 2)):
        clip = decode_video(data, Frames(count=4))
        assert numbers(clip.frames) == [0, 9, 19, 29] == list(clip.indices)
        assert (clip.rate, clip.reader, clip.total) == (24.0, "memory", 30)
        assert clip.seconds[1] == 9 / 24


def test_a_clip_is_thinned_by_the_same_rule_and_keeps_its_source() -> None:
    whole = decode_video(video(H264), ALL)
    every_third = Clip(whole.frames[::3], whole.indices[::3], whole.seconds[::3], 25.0, 30, "pyav")
    clip = decode_video(every_third, Frames(count=4))
    assert clip.indices == (0, 9, 18, 27) and numbers(clip.frames) == [0, 9, 18, 27]
    assert (clip.rate, clip.total, clip.seconds[1]) == (25.0, 30, pytest.approx(0.36))
    assert decode_video(every_third, ALL) is every_third
    one_a_second = Frames("fps", 4, fps=25 / 9)  # every third of those that are left, not every ninth
    assert decode_video(every_third, one_a_second).indices == (0, 9, 18, 27)


BLANK = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((4, 5, 6), np.uint8), r"\[T, H, W, 3\] or \[T, 3, H, W\], got shape \[4, 5, 6\]"),
        (np.zeros((4, 5, 6, 4), np.uint8), "got shape"),
        (np.zeros((4, 5, 6, 3)), "8-bit values, got float64"),
        (np.zeros((0, 5, 6, 3), np.uint8), "holds no frame"),
        (np.zeros((2, 50, 60, 3), np.uint8), "60x50 is more than model.frames.max_pixels 2000"),
        (None, "NoneType"),
        (Image.new("RGB", (4, 4)), "got Image"),
        (Clip(BLANK.float(), (0, 1), (0.0, 1.0), 1.0, 2, "x"), "uint8"),
        (Clip(BLANK, (0,), (0.0, 1.0), 1.0, 2, "x"), "2 frames has 1 places"),
        (Clip(BLANK, (1, 0), (0.0, 1.0), 1.0, 2, "x"), "ascend within its 2"),
        (Clip(BLANK, (0, 2), (0.0, 1.0), 1.0, 2, "x"), "ascend within its 2"),
        (Clip(BLANK, (0, 1), (1.0, 1.0), 1.0, 2, "x"), "time stamps must ascend"),
    ],
)
def test_values_that_are_no_video(data: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        decode_video(data, Frames(max_pixels=2000))


# ---------------------------------------------------------------- rows


def test_a_row_with_a_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(video(H264))
    content = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What happens?"}]
    rows = [
        {"videos": ["a.mp4"], "prompt": "What happens?", "chosen": "It counts.", "rejected": "Nothing."},
        {"prompt": [{"role": "user", "content": content}], "chosen": "It counts.", "rejected": "Nothing."},
        {"prompt": "A count.", "chosen": {"video": "a.mp4"}, "rejected": {"video": "a.mp4"}},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load(Jsonl(path=str(tmp_path / "rows.jsonl"), columns={}))
    for sample in found.samples:
        ready = decode(sample, Frames(count=4))
        sides = [ready.examples[role][0] for role in ("chosen", "rejected")]
        clips = [
            part.data
            for side in sides
            for parts in (*(turn.parts for turn in side.prompt), side.response)
            for part in parts
            if part.kind == "video"
        ]
        assert len(clips) == 2 and clips[0] is clips[1]  # decoded once for both sides
        assert numbers(clips[0].frames) == [0, 9, 19, 29]


def test_errors_name_row_role_and_file(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video at all, as one sees")
    one = pair("a")
    part = Part("video", File(str(tmp_path), "bad.mp4"))
    bad = replace(one, examples={"chosen": (replace(one.examples["chosen"][0], response=(part,)),)})
    with pytest.raises(UserError, match="^test row a, role 'chosen', video 'bad.mp4': not a video"):
        decode(bad, Frames())
    with pytest.raises(UserError, match="holds a video; videos need"):
        decode(bad)


def test_large_frames_are_scaled_down_in_shape() -> None:
    noise = torch.randint(0, 256, (3, 3, 120, 160), generator=torch.Generator().manual_seed(0))
    flat = torch.full((3, 3, 120, 160), 77)
    for values in (noise, flat):
        small = decode_video(values.to(torch.uint8), Frames(scale_to=40 * 30))
        assert small.frames.shape == (3, 3, 30, 40) and small.frames.dtype == torch.uint8
        assert small.indices == (0, 1, 2)
        means = values.float().mean(), small.frames.float().mean()
        assert abs(float(means[0] - means[1])) < 1.0
    assert decode_video(flat.to(torch.uint8), Frames(scale_to=120 * 160)).frames.shape[2:] == (120, 160)
    assert Frames(scale_to=100).fingerprint() != Frames().fingerprint()
    with pytest.raises(ValueError, match="scale_to"):
        Frames(scale_to=0)
