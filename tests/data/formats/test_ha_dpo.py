"""HA-DPO rows: every chosen wording against every rejected one; answers that were right are left out."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import HA_DPO, answer_of, changed, prompt_of, read_rows

from mmalign.types import UserError

DESCRIBED: dict[str, Any] = {"image_id": "2324811", "chosen": ["a", "b", "c"], "rejected": ["x", "y"]}


def test_answers(tmp_path: Path) -> None:
    data = read_rows(tmp_path, HA_DPO, {**HA_DPO, "correct": True})
    (sample,) = data.samples
    assert data.report.formats == {"ha_dpo": 2} and data.report.left_out == {"answered rightly": 1}
    assert prompt_of(sample, "chosen") == [("user", "image:7.jpg", "Is there a cat?")]
    assert [answer_of(sample, side) for side in ("chosen", "rejected")] == [
        "Yes, there is.",
        "No, there is none.",
    ]


@pytest.mark.parametrize("right", [True, 1, 1.0, "true", "True", "1"])
@pytest.mark.parametrize("wrong", [False, 0, "false", "False", "0", None])
def test_how_a_right_answer_is_written(right: Any, wrong: Any, tmp_path: Path) -> None:
    data = read_rows(tmp_path, {**HA_DPO, "correct": right}, {**HA_DPO, "correct": wrong})
    assert data.report.left_out == {"answered rightly": 1} and len(data.samples) == 1


def test_descriptions_are_crossed(tmp_path: Path) -> None:
    data = read_rows(tmp_path, DESCRIBED)
    pairs = {(answer_of(one, "chosen"), answer_of(one, "rejected")) for one in data.samples}
    assert pairs == {(better, worse) for better in "abc" for worse in "xy"} and len(data.samples) == 6
    assert prompt_of(data.samples[0], "chosen") == [
        ("user", "image:2324811.jpg", "Describe this image in detail.")
    ]
    assert {one.labels["margin"] for one in data.samples} == {1.0}


def test_a_named_picture_and_question(tmp_path: Path) -> None:
    row = {**DESCRIBED, "image": "VG_100K_2/1.jpg", "question": "<image>\nDescribe it."}
    sample = read_rows(tmp_path, row).samples[0]
    assert prompt_of(sample, "chosen") == [("user", "image:VG_100K_2/1.jpg", "\nDescribe it.")]
    sample = read_rows(tmp_path, {**HA_DPO, "image_id": "x.png"}).samples[0]
    assert prompt_of(sample, "chosen")[0][1] == "image:x.png"


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({**HA_DPO, "correct": "yes"}, "'correct': must be true or false, got 'yes'"),
        ({**HA_DPO, "correct": 2}, "'correct': must be true or false, got 2"),
        ({**HA_DPO, "correct": ["true"]}, "'correct': must be true or false"),
        ({**HA_DPO, "image_id": None}, "'image_id': must be a text or a whole number, got None"),
        ({**HA_DPO, "reject": None}, "'rejected': "),
        ({**HA_DPO, "chosen": "A <image>."}, "'chosen': an answer holds no media"),
        ({**DESCRIBED, "rejected": []}, "'rejected': must be a list of wordings that is not empty"),
        (changed(DESCRIBED, chosen=["a", " "]), r"'chosen\[1\]': is empty"),
    ],
)
def test_broken_rows(row: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rule):
        read_rows(tmp_path, row)
