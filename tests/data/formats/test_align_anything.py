"""align-anything rows: the better of two responses, to pictures, clips or texts; refinements by feedback."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import ALIGN_ANYTHING, answer_of, changed, prompt_of, read_rows

from mmalign.messages import CRITIQUE
from mmalign.types import UserError

FEEDBACK = {"prompt": "P", "response": "first", "critique": "too short", "refinement": "second"}


@pytest.mark.parametrize(
    ("better", "chosen"), [(1, "A dog."), (2, "A cat."), ("1", "A dog."), ("2", "A cat.")]
)
def test_the_better_response_is_chosen(better: int | str, chosen: str, tmp_path: Path) -> None:
    data = read_rows(tmp_path, {**ALIGN_ANYTHING, "overall_response": better})
    (sample,) = data.samples
    assert data.report.formats == {"align_anything": 1}
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "What is it?")]
    assert answer_of(sample, "chosen") == chosen != answer_of(sample, "rejected")


def test_clips_and_texts(tmp_path: Path) -> None:
    row = changed(ALIGN_ANYTHING, image=..., question=..., prompt="What?", video_path="v.mp4")
    (sample,) = read_rows(tmp_path, row).samples
    assert prompt_of(sample, "rejected") == [("user", "video:v.mp4", "What?")]
    (sample,) = read_rows(tmp_path, changed(row, video_path=...)).samples
    assert prompt_of(sample, "rejected") == [("user", "What?")]


def test_a_refinement_is_better_than_what_it_refines(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, FEEDBACK).samples
    assert [answer_of(sample, side) for side in ("chosen", "rejected")] == ["second", "first"]
    assert answer_of(sample, "rejected_critique") == "too short" and "chosen_critique" not in sample.examples
    assert prompt_of(sample, "rejected_critique")[1:] == [("assistant", "first"), ("user", CRITIQUE)]
    assert "criticised" not in sample.labels, "a critique of one side alone would give that side away"


@pytest.mark.parametrize("odd", [0, 3, None, "3", "", True])
def test_other_verdicts_are_refused(odd: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'overall_response': must be 1 or 2, the better response, got"):
        read_rows(tmp_path, {**ALIGN_ANYTHING, "overall_response": odd})


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"video_path": "v.mp4"}, "'video_path': given beside image; keep one"),
        ({"image": None, "question": "<image>What?"}, "'question': 1 <image> markers for 0 images"),
        ({"response_2": None}, "'response_2': is null"),
    ],
)
def test_broken_rows(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rule):
        read_rows(tmp_path, changed(ALIGN_ANYTHING, **change))
