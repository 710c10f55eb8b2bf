"""Folders of frames as clips: natural order, the declared rate, damage named by its frame."""

import json
from pathlib import Path
from typing import Any

import pytest
from bad_inputs import write_rows
from data.clips import KINDS, numbered, numbers, video
from PIL import Image

from mmalign.clips import ASSUMED_RATE, Clip, Frames
from mmalign.data._first_pass import first_pass
from mmalign.data._frame_folders import natural
from mmalign.data._media import decode
from mmalign.data._paths import File
from mmalign.data._row_cache import content_of
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import PreferenceSample, UserError

ROLES = ("chosen", "rejected")


def frames_in(folder: Path, count: int = 12, name: str = "frame{}.png") -> Path:
    """Numbered frames 0, 1, ... whose names are in order as numbers only."""
    folder.mkdir()
    for number in range(count):
        Image.fromarray(numbered(number)).save(folder / name.format(number))
    return folder


def sample_of(folder: Path, video: Any = "v") -> PreferenceSample:
    row = {"prompt": "P", "chosen": "a", "rejected": "b", "videos": [video]}
    return load(Jsonl(path=str(write_rows(folder / "x.jsonl", [row])), format="canonical")).samples[0]


def clip_of(sample: PreferenceSample, frames: Frames, role: str = "chosen") -> Clip:
    return decode(sample, frames).examples[role][0].prompt[0].parts[0].data


def test_the_order_of_names_is_that_of_their_numbers() -> None:
    names = ["f10.png", "f9.png", "F1.png", "f2_b.png", "f2_a.png", "a.png", "10.png", "9.png"]
    expected = ["9.png", "10.png", "a.png", "F1.png", "f2_a.png", "f2_b.png", "f9.png", "f10.png"]
    assert sorted(names, key=natural) == expected
    assert sorted(["f01.png", "f1.png"], key=natural) == sorted(["f1.png", "f01.png"], key=natural)


def test_frames_come_in_natural_order_and_at_the_declared_rate(tmp_path: Path) -> None:
    frames_in(tmp_path / "v")
    (tmp_path / "v" / "notes.txt").write_text("x")
    (tmp_path / "v" / ".frame99.png").write_bytes(b"x")
    clip = clip_of(sample_of(tmp_path, {"path": "v", "fps": 3}), Frames(count=5))
    assert numbers(clip.frames) == list(clip.indices) == [0, 2, 5, 8, 11]
    assert clip.seconds == tuple(place / 3 for place in clip.indices)
    assert (clip.rate, clip.total, clip.reader) == (3.0, 12, "folder")


ASKED = {"video": "v", "prompt": "<video>\nQ", "chosen": "a", "rejected": "b"}
BY_FORMAT = {
    "llava": ASKED,
    "mm_rlhf": {**ASKED, "is_tie": False},
    "trl": {**ASKED, "prompt": "Q"},
    "align_anything": {
        "prompt": "Q",
        "video_path": "v",
        "response_1": "a",
        "response_2": "b",
        "overall_response": 1,
    },
}


@pytest.mark.parametrize("name", BY_FORMAT)
def test_the_row_tells_the_rate(name: str, tmp_path: Path) -> None:
    """Twelve frames, two a second: one a second is every other."""
    frames_in(tmp_path / "v")
    (tmp_path / "v.mp4").write_bytes(video(KINDS["h264"], 4))
    rows = [{**BY_FORMAT[name], "id": "1", "fps": 2.0}, {**BY_FORMAT[name], "id": "2"}]
    medium = "video_path" if name == "align_anything" else "video"
    rows += [{**rows[0], "id": "3", medium: "v.mp4"}, {**rows[0], "id": "4", medium: {"path": "v", "fps": 4}}]
    data = load(Jsonl(path=str(write_rows(tmp_path / "x.jsonl", rows))))
    assert data.report.formats == {name: 4} and not data.report.unknown_columns
    rule = Frames(sampling="fps", fps=1.0, count=12)
    clips = [clip_of(sample, rule) for sample in data.samples]
    assert clips[0].rate == 2.0 and clips[0].indices == (0, 2, 4, 6, 8, 10)
    assert type(data.samples[2].examples["chosen"][0].prompt[0].parts[0].data) is File
    assert [clip.rate for clip in clips[1:]] == [ASSUMED_RATE, 25.0, 4.0]
    told = "data: 1 clips are folders of frames without a rate (fps); 24 a second is assumed"
    assert told in data.report.lines()
    with pytest.raises(UserError, match=r"fps': must be above 0, got 0"):
        load(Jsonl(path=str(write_rows(tmp_path / "x.jsonl", [{**rows[0], "fps": 0}]))))


def test_a_rate_is_assumed_of_folders_alone(tmp_path: Path) -> None:
    for name in ("v", "w"):
        frames_in(tmp_path / name, 2)
    rows = [{**ASKED, "prompt": f"<video> {n}", "video": name} for n, name in enumerate("vvwx")]
    report = load(Jsonl(path=str(write_rows(tmp_path / "x.jsonl", rows)))).report
    assert report.unrated == 2  # v once, and x is not there
    rated = load(
        Jsonl(path=str(write_rows(tmp_path / "x.jsonl", [{**row, "fps": 1} for row in rows])))
    ).report
    assert rated.unrated == 0 and not any("a second is assumed" in line for line in rated.lines())


def test_the_rate_decides_what_a_rule_by_rate_takes(tmp_path: Path) -> None:
    frames_in(tmp_path / "v")
    rule = Frames(sampling="fps", fps=1.0, count=12)
    assert clip_of(sample_of(tmp_path, {"path": "v", "fps": 4}), rule).indices == (0, 4, 8)
    assert clip_of(sample_of(tmp_path, {"video": "v", "fps": 6}), rule).indices == (0, 6)
    assert clip_of(sample_of(tmp_path), rule).rate == ASSUMED_RATE


def test_a_part_of_a_prompt_may_be_a_folder(tmp_path: Path) -> None:
    frames_in(tmp_path / "v")
    part = {"type": "video", "video": "v", "fps": 2}
    row = {
        "prompt": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}],
        "chosen": "a",
        "rejected": "b",
    }
    (sample,) = load(Jsonl(path=str(write_rows(tmp_path / "x.jsonl", [row])))).samples
    assert clip_of(sample, Frames(count=2)).seconds == (0.0, 5.5)


def test_both_sides_share_one_decode_and_large_frames_are_scaled(tmp_path: Path) -> None:
    frames_in(tmp_path / "v")
    done = decode(sample_of(tmp_path), Frames(count=3, scale_to=32 * 24))
    chosen, rejected = (done.examples[role][0].prompt[0].parts[0].data for role in ROLES)
    assert chosen is rejected and chosen.frames.shape == (3, 3, 24, 32)


def test_what_is_cached_goes_by_the_content_and_the_rate(tmp_path: Path) -> None:
    frames_in(tmp_path / "v", 3)
    before = [content_of(sample_of(tmp_path, video), ROLES) for video in ("v", {"path": "v", "fps": 3})]
    Image.fromarray(numbered(9)).save(tmp_path / "v" / "frame1.png")
    assert None not in before and len({*before, content_of(sample_of(tmp_path), ROLES)}) == 3


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ("empty", "a folder without pictures"),
        ("cut", "frame 'frame11.png': the picture is broken or cut off"),
        ("size", "its frames have different sizes \\(10x10 and 64x48\\)"),
    ],
)
def test_broken_folders_are_left_out_by_name(broken: str, rule: str, tmp_path: Path) -> None:
    frames_in(tmp_path / "v", 0 if broken == "empty" else 12)
    frames_in(tmp_path / "w")
    last = tmp_path / "v" / "frame11.png"
    if broken == "cut":
        last.write_bytes(last.read_bytes()[:60])
    if broken == "size":
        Image.new("RGB", (10, 10)).save(last)
    rows = [{"prompt": name, "chosen": "a", "rejected": "b", "videos": [name]} for name in ("v", "w")]
    samples = load(Jsonl(path=str(write_rows(tmp_path / "x.jsonl", rows)), format="canonical")).samples
    found = first_pass(samples, lambda sample: (), "skip", frames=Frames(count=2))
    assert [one.origin for one in found.skipped] == ["x.jsonl row 1"] and len(found.kept) == 1
    with pytest.raises(UserError, match=rf"x.jsonl row 1, role 'chosen', video 'v': {rule}"):
        decode(samples[0], Frames(count=2))


def test_folders_and_frames_elsewhere_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    frames_in(tmp_path / "outside", 2)
    (tmp_path / "data" / "v").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="outside data.root"):
        decode(sample_of(tmp_path / "data"), Frames())
    frames_in(tmp_path / "data" / "w", 1)
    (tmp_path / "data" / "w" / "frame1.png").symlink_to(tmp_path / "outside" / "frame1.png")
    with pytest.raises(UserError, match="frame 'frame1.png': .*outside data.root"):
        decode(sample_of(tmp_path / "data", "w"), Frames())


def test_limits(tmp_path: Path) -> None:
    frames_in(tmp_path / "v")
    with pytest.raises(UserError, match="11 s long; model.frames.max_seconds is 10"):
        decode(sample_of(tmp_path, {"path": "v", "fps": 1}), Frames(max_seconds=10))
    with pytest.raises(UserError, match="64x48 is more than model.frames.max_pixels 3071"):
        decode(sample_of(tmp_path), Frames(max_pixels=3071))
    for odd in (0, "2", True):
        with pytest.raises(UserError, match=r"'videos\[0\].fps': must be"):
            sample_of(tmp_path, json.loads(json.dumps({"path": "v", "fps": odd})))
