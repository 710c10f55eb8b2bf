"""VideoDPO folders: clips by number or by name, weights of rare pairs, broken pairs."""

import json
from pathlib import Path
from typing import Any

import pytest
from data.format_rows import answer_of, prompt_of

from mmalign.data._sources import LoadedData, load
from mmalign.data.video_dpo import VideoDpo
from mmalign.types import UserError


def clip(name: str) -> dict[str, Any]:
    return {"basic": {"clip_path": name, "clip_duration": 1.6}, "misc": {"frame_caption": ["a cat"]}}


CLIPS = [clip(f"winvideos/{n}.mp4") if n % 2 == 0 else clip(f"losevideos/{n}.mp4") for n in range(4)]
PAIRS: list[dict[str, Any]] = [
    {"video1": 0, "video2": 1, "label": 0, "frame_caption": "a dog", "score": 0.72},
    {"video1": 2, "video2": 3, "score": 0.18, "diff_score": 0.5},
]


def read(folder: Path, pairs: Any = PAIRS, clips: Any = CLIPS, **options: Any) -> LoadedData:
    (folder / "pair.json").write_text(json.dumps(pairs))
    if clips is not None:
        (folder / "metadata.json").write_text(json.dumps(clips))
    return load(VideoDpo(path=str(folder), **options))


def test_clips_captions_and_margins(tmp_path: Path) -> None:
    first, second = read(tmp_path).samples
    assert answer_of(first, "chosen") == "video:winvideos/0.mp4"
    assert answer_of(first, "rejected") == "video:losevideos/1.mp4"
    assert [prompt_of(one, "chosen") for one in (first, second)] == [[("text", "a dog")], [("text", "a cat")]]
    assert [one.weight for one in (first, second)] == [1.0, 1.0]
    assert (second.labels, second.origin) == ({"margin": 0.5}, "pair.json row 2")


def test_rare_pairs_weigh_more(tmp_path: Path) -> None:
    """(0.72 / 0.72)^a = 1; 0.72 / 0.18 = 4, so 4^0.5 = 2."""
    assert [one.weight for one in read(tmp_path, alpha=1.0).samples] == [1.0, pytest.approx(4.0)]
    assert [one.weight for one in read(tmp_path, alpha=0.5).samples] == [1.0, pytest.approx(2.0)]


def test_names_of_files_need_no_metadata(tmp_path: Path) -> None:
    pair = {"video1": "a.mp4", "video2": "b.mp4", "frame_caption": "a cow", "score": 1}
    (sample,) = read(tmp_path, [pair], clips=None).samples
    assert (answer_of(sample, "chosen"), answer_of(sample, "rejected")) == ("video:a.mp4", "video:b.mp4")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"video2": 4}, "'video2': metadata.json has 4 clips, got 4"),
        ({"video1": None}, "'video1': must be a place in metadata.json or the name of a file, got None"),
        ({"label": 1}, "'label': must be 0 or missing, video1 being the better clip.*got 1"),
        ({"score": 0}, "'score': must be a number above 0 for alpha, got 0"),
        ({"score": None}, "'score': must be a number above 0 for alpha, got None"),
        ({"frame_caption": ["a", "b"]}, "'frame_caption': must be one text, got .'a', 'b'."),
        ({"frame_caption": " "}, "'frame_caption': must be one text"),
    ],
)
def test_broken_pairs_go_out_whole(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    broken = [{**PAIRS[0], **change}, PAIRS[1]]
    with pytest.raises(UserError, match=f"pair.json row 1, field {rule}"):
        read(tmp_path, broken, alpha=1.0)
    data = read(tmp_path, broken, alpha=1.0, on_error="skip")
    assert (len(data.samples), len(data.report.skipped)) == (1, 1)


def test_folders_without_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a folder with pair.json and metadata.json"):
        load(VideoDpo(path=str(tmp_path / "none")))
    with pytest.raises(UserError, match="pair.json'?: no such file"):
        load(VideoDpo(path=str(tmp_path)))
    with pytest.raises(ValueError, match="alpha: must be 0 or more, got -1"):
        VideoDpo(path="x", alpha=-1)
    with pytest.raises(UserError, match="field 'video1': clip 0 of metadata.json has no clip_path"):
        read(tmp_path, clips=[{}] * 4)
