"""LLaVA-Hound and TPO rows: folders of frames at their rate, clips, pictures, a marker anywhere."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import LLAVA_HOUND, answer_of, changed, only, prompt_of, read_rows

from mmalign.data._paths import RatedFile
from mmalign.types import UserError


@pytest.mark.parametrize("prompt", ["What runs?\n<video>", "<video>\nWhat runs?", "What runs?"])
def test_the_clip_comes_first(prompt: str, tmp_path: Path) -> None:
    data = read_rows(tmp_path, {**LLAVA_HOUND, "prompt": prompt})
    (sample,) = data.samples
    assert data.report.formats == {"llava_hound": 1}
    assert prompt_of(sample, "chosen") == [("user", "video:clips/v1", "What runs?")]
    assert [answer_of(sample, side) for side in ("chosen", "rejected")] == ["A cat.", "A dog."]


@pytest.mark.parametrize(("given", "rate"), [({}, 2.0), ({"fps": 5}, 5.0), ({"fps": None}, 2.0)])
def test_folders_have_the_rate_that_they_were_cut_at(
    given: dict[str, Any], rate: float, tmp_path: Path
) -> None:
    (sample,) = read_rows(tmp_path, {**LLAVA_HOUND, **given}).samples
    clip = only(sample, "chosen").prompt[0].parts[0].data
    assert clip == RatedFile(str(tmp_path), "clips/v1", rate)


@pytest.mark.parametrize("name", ["image", "frame", "image_path"])
def test_pictures_and_scores(name: str, tmp_path: Path) -> None:
    row = changed(LLAVA_HOUND, video=..., prompt="<video>What?", chosen_score=4, rejected_score=2)
    (sample,) = read_rows(tmp_path, {**row, name: "a.png"}).samples
    assert prompt_of(sample, "rejected") == [("user", "image:a.png", "What?")]
    assert [only(sample, side).labels["score"] for side in ("chosen", "rejected")] == [4.0, 2.0]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"video": None}, "'video': holds no video"),
        ({"fps": 0}, "'video.fps': must be above 0, got 0"),
        ({"prompt": "<video>"}, "'prompt': is empty"),
        ({"prompt": "<video> or <video>?"}, "'prompt': 2 <video> markers for 1 videos"),
        ({"rejected": "A <video>."}, "'rejected': an answer holds no media"),
    ],
)
def test_broken_rows(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rule):
        read_rows(tmp_path, {**LLAVA_HOUND, **change})
