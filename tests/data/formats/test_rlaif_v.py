"""RLAIF-V rows: log-probabilities and scores of claims as labels of the answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from data.format_rows import RLAIF_V, RLHF_V, answer_of, changed, only, prompt_of, read_rows

from mmalign.types import UserError


def test_log_probabilities_are_labels_and_nothing_else_changes(tmp_path: Path) -> None:
    data = read_rows(tmp_path, RLAIF_V)
    (sample,), (plain,) = data.samples, read_rows(tmp_path, RLHF_V).samples
    assert data.report.lines()[0].endswith("read as rlaif_v rows (image, question, chosen, rejected, logps)")
    assert only(sample, "chosen").labels == {"logp_sum": -12.0, "logp_mean": -2.0}
    assert only(sample, "rejected").labels == {"logp_sum": -16.0, "logp_mean": -4.0}
    for side in ("chosen", "rejected"):
        assert prompt_of(sample, side) == prompt_of(plain, side)
        assert answer_of(sample, side) == answer_of(plain, side)


def test_without_them_the_rows_are_those_of_rlhf_v(tmp_path: Path) -> None:
    data = read_rows(tmp_path, {**RLHF_V, "logps": None, "origin_dataset": "coco"})
    assert data.report.formats == {"rlhf_v": 1}


@pytest.mark.parametrize(
    "scores",
    [
        [0, -2],
        {"chosen": 0, "rejected": -2},
        {"rejected": -2, "chosen": 0},
        {"rejected": -2, "chosen": 0, "n": 9},
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_scores_of_claims(scores: Any, packed: bool, tmp_path: Path) -> None:
    infos = {"scores": scores, "facts": ["a cat"]}
    row = changed(RLAIF_V, logps=..., image=..., image_path="a.png", ds_question_id="q7")
    row["org_infos"] = json.dumps(infos) if packed else infos
    (sample,) = read_rows(tmp_path, row).samples
    assert [only(sample, side).labels for side in ("chosen", "rejected")] == [{"score": 0.0}, {"score": -2.0}]
    assert sample.labels["group"] == "q7"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"logps": "__import__('os')"}, "'logps': not valid JSON at character 0"),
        ({"logps": "[1, 2]"}, "'logps': must be a list of six"),
        ({"logps": [1, 2, [], 3, "x", []]}, r"'logps\[4\]': must be a number"),
        ({"logps": ..., "org_infos": {"scores": [1]}}, "'org_infos.scores': must hold the scores"),
        ({"question": " "}, "'question': is empty"),
    ],
)
def test_broken_rows(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rule) as caught:
        read_rows(tmp_path, changed(RLAIF_V, **change))
    assert "\n" not in str(caught.value)
