"""MM-RLHF rows: ties and distances of pairs, lists with scores or ranks, markers taken out."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import MM_RLHF, answer_of, changed, only, prompt_of, read_rows

from mmalign.data._pairing import PairRule
from mmalign.types import UserError

PAIRS = PairRule()
LIST = changed(
    MM_RLHF,
    chosen=...,
    rejected=...,
    is_tie=...,
    delta=...,
    responses=[{"response": "good", "score": 5, "rank": 1}, {"response": "bad", "score": 2, "rank": 3}],
)


def test_a_pair_with_its_distance(tmp_path: Path) -> None:
    data = read_rows(tmp_path, {**MM_RLHF, "chosen_score": 3.5, "rejected_score": 2, "ls_factor": 0.4})
    (sample,) = data.samples
    assert data.report.formats == {"mm_rlhf": 1} and data.report.unknown_columns == {"ls_factor": 1}
    assert data.report.lines()[0].endswith("is_tie, delta; told by ls_factor)"), "it is not read"
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "What is it?")]
    assert (sample.labels["margin"], sample.labels["tie"]) == (1.5, 0.0)
    assert [only(sample, side).labels for side in ("chosen", "rejected")] == [{"score": 3.5}, {"score": 2.0}]


def test_reasons_are_critiques(tmp_path: Path) -> None:
    given = {**MM_RLHF, "chosen_reason": "right", "rejected_reason": "no dog"}
    bare = {**MM_RLHF, "chosen_reason": None, "rejected_reason": None}
    data = read_rows(tmp_path, given, bare, {**given, "rejected_reason": None})
    whole, empty, half = data.samples
    assert not data.report.unknown_columns
    assert [answer_of(whole, f"{side}_critique") for side in ("chosen", "rejected")] == ["right", "no dog"]
    assert [one.labels.get("criticised") for one in data.samples] == [1.0, 0.0, None]
    assert only(empty, "rejected_critique") == only(empty, "rejected")
    assert "chosen_critique" in half.examples and "rejected_critique" not in half.examples
    with pytest.raises(UserError, match="'rejected_reason'"):
        read_rows(tmp_path, {**given, "rejected_reason": 3})


def test_ties_are_left_out_and_counted(tmp_path: Path) -> None:
    report = read_rows(tmp_path, MM_RLHF, {**MM_RLHF, "is_tie": True, "delta": 0}).report
    assert (report.kept, report.ties, report.ties_dropped) == (1, 1, 1)


@pytest.mark.parametrize("prompt", ["<image>\nWhat?", "What?\n<image>", "<video>What?", "What?"])
def test_a_single_marker_is_taken_out_wherever_it_stands(prompt: str, tmp_path: Path) -> None:
    row = changed(MM_RLHF, image=..., video="frames/v1", prompt=prompt)
    (sample,) = read_rows(tmp_path, row).samples
    assert prompt_of(sample, "rejected") == [("user", "video:frames/v1", "What?")]


def test_several_pictures_keep_their_places_and_their_number(tmp_path: Path) -> None:
    row = {**MM_RLHF, "image": ["a.png", "b.png"], "prompt": "Is <image> like <image>?"}
    (sample,) = read_rows(tmp_path, row).samples
    assert prompt_of(sample, "chosen") == [("user", "Is ", "image:a.png", " like ", "image:b.png", "?")]
    with pytest.raises(UserError, match="'prompt': 1 <image> markers for 2 images"):
        read_rows(tmp_path, {**row, "prompt": "Is <image> it?"})


def test_lists_hold_scores_and_ranks(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, LIST).samples
    answers = sample.examples["responses"]
    assert [one.response[0].data for one in answers] == ["good", "bad"]
    assert [one.labels for one in answers] == [{"score": 5.0, "rank": 1.0}, {"score": 2.0, "rank": 3.0}]
    ranked = [{"answer": "bad", "rank": 2}, {"answer": "good", "rank": 1}]
    (pair,) = read_rows(tmp_path, {**LIST, "responses": ranked}, pairs=PAIRS).samples
    assert (answer_of(pair, "chosen"), answer_of(pair, "rejected")) == ("good", "bad")


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({**MM_RLHF, "is_tie": "no"}, "'is_tie': must be true or false"),
        ({**MM_RLHF, "delta": "1"}, "'delta': must be a number"),
        ({**LIST, "responses": LIST["responses"][:1]}, "'responses': must be a list of at least two"),
        ({**LIST, "responses": [*LIST["responses"], {"score": 1}]}, r"'responses\[2\]': holds no answer"),
        (
            {**LIST, "responses": [*LIST["responses"], {"text": "x"}]},
            r"'responses\[2\]': has neither a score",
        ),
    ],
)
def test_broken_rows(row: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rule):
        read_rows(tmp_path, row)
