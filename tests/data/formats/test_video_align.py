"""VideoAlign rows: votes by aspect on two clips, ties, a chosen aspect, real votes."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import VIDEO_ALIGN, answer_of, changed, read_rows

from mmalign.data._pairing import PairRule
from mmalign.types import UserError


def winner(folder: Path, row: dict[str, Any], **options: Any) -> str:
    (sample,) = read_rows(folder, row, **options).samples
    assert {answer_of(sample, role) for role in ("chosen", "rejected")} == {"video:a.mp4", "video:b.mp4"}
    return answer_of(sample, "chosen")[6]


def test_the_majority_of_the_aspects_decides_unless_there_is_an_overall_vote(tmp_path: Path) -> None:
    assert winner(tmp_path, VIDEO_ALIGN) == "b"
    assert winner(tmp_path, {**VIDEO_ALIGN, "VQ": "A", "MQ": "A"}) == "a"
    assert winner(tmp_path, {**VIDEO_ALIGN, "Overall": "A"}) == "a"
    assert winner(tmp_path, {**VIDEO_ALIGN, "VQ": None, "MQ": "", "TA": "A"}) == "a"
    data = read_rows(tmp_path, VIDEO_ALIGN)
    assert "data: 1 pairs made of 1 lists: 1 best_worst by VQ, MQ, TA (majority)" in data.report.lines()


def test_one_aspect_or_a_veto_can_decide(tmp_path: Path) -> None:
    mixed = {**VIDEO_ALIGN, "TA": "A"}
    assert winner(tmp_path, mixed, pairs=PairRule(by=("TA",))) == "a"
    assert winner(tmp_path, mixed, pairs=PairRule(by=("VQ",))) == "b"
    veto = PairRule(by=("VQ", "MQ", "TA"), policy="veto")
    with pytest.raises(UserError, match="one of the scores judges the other way round 1"):
        read_rows(tmp_path, mixed, pairs=veto)
    assert winner(tmp_path, VIDEO_ALIGN, pairs=veto) == "b"


def test_ties_and_rows_without_a_vote(tmp_path: Path) -> None:
    even = {**VIDEO_ALIGN, "VQ": "A"}
    none = {**VIDEO_ALIGN, "VQ": None, "MQ": None, "TA": None}
    data = read_rows(tmp_path, even, none, VIDEO_ALIGN)
    assert (data.report.ties_dropped, data.report.left_out, len(data.samples)) == (
        1,
        {"without a vote": 1},
        1,
    )
    kept = read_rows(tmp_path, even, VIDEO_ALIGN, ties="keep").samples
    assert [sample.labels["tie"] for sample in kept] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"VQ": "C"}, "'VQ': must be A, B or same, got 'C'"),
        ({"TA": 1}, "'TA': must be A, B or same, got 1"),
        ({"path_B": None}, "'path_B': holds no video"),
        ({"prompt": None}, "'prompt': is null"),
    ],
)
def test_broken_rows(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"row 1, field {rule}"):
        read_rows(tmp_path, changed(VIDEO_ALIGN, **change))
