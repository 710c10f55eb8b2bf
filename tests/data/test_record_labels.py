"""Labels of segments and masks: what a row may hold, what becomes of it when sides are swapped or split."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmalign.data._first_pass import unpair
from mmalign.data._media import decode, with_mask
from mmalign.data._paths import File
from mmalign.data._records import read_record
from mmalign.data._sides import flipped
from mmalign.types import PreferenceSample, UserError

CLIPS = {"prompt": "a cat", "chosen": {"video": "a.mp4"}, "rejected": {"video": "b.mp4"}}


def read(**row: Any) -> PreferenceSample:
    return read_record({**CLIPS, **row}, "x.jsonl row 1", 0, "/root-of-data").sample


def test_segments_of_a_pair() -> None:
    assert read(segments=[1, -1, 0, 1.0]).labels["segments"] == [1, -1, 0, 1]
    assert read_record({"prompt": "P", "completion": "c", "segments": [1]}, "r", 0, "").unused == (
        "segments",
    )


@pytest.mark.parametrize("value", [[], [1, 2], [True], "1, 0", [0.5], [[1]], {"0": 1}])
def test_other_segments_are_refused(value: Any) -> None:
    with pytest.raises(UserError, match="x.jsonl row 1, field 'segments': must be a list of 1, -1 and 0"):
        read(segments=value)


def test_critiques_go_with_their_answers() -> None:
    said = {"chosen_critique": "right", "rejected_critique": "wrong"}
    (sample,), _ = flipped([read(**said)], 1.0)
    assert [sample.examples[role][0].response[0].data for role in said] == ["wrong", "right"]
    (one,), _ = flipped([read(rejected_critique="wrong")], 1.0)
    assert "rejected_critique" not in one.examples
    assert one.examples["chosen_critique"][0].response[0].data == "wrong"


def test_segments_change_sign_with_the_sides() -> None:
    sample = read(segments=[1, -1, 0])
    (swapped,), count = flipped([sample], 1.0)
    assert count == 1 and swapped.labels["segments"] == [-1, 1, 0]
    assert swapped.examples["chosen"] == sample.examples["rejected"]
    assert sample.labels["segments"] == [1, -1, 0]
    assert "segments" not in unpair([sample]).samples[0].labels


def test_margins_and_spans_change_sides_with_the_answers() -> None:
    """The margin stays the distance of the two scores, which go with their answers; other labels stay."""
    texts = {"chosen": "a cat", "rejected": "a dog or so"}
    verdict = {"chosen_score": {"score": 5, "honest": 3}, "rejected_score": {"score": 3.5, "honest": 4}}
    kept = {"tie": 0, "group": "g", "user": "u", "weight": 2.0, "mask": [[1, 0]]}
    spans = {"chosen": [[2, 5]], "rejected": [[6, 11]]}
    sample = read(**texts, **verdict, **kept, margin=1.5, spans=spans)
    (swapped,), _ = flipped([sample], 1.0)
    score = {role: swapped.examples[role][0].labels["score"] for role in texts}
    assert swapped.labels["margin"] == score["chosen"] - score["rejected"] == -1.5
    assert swapped.examples["chosen"][0].labels == {"score": 3.5, "honest": 4}
    assert swapped.labels["spans"] == {"rejected": [[2, 5]], "chosen": [[6, 11]]}
    same = {"tie": 0.0, "group": "g", "user": "u"}
    assert {name: swapped.labels[name] for name in same} == same and swapped.weight == 2.0
    assert swapped.labels["mask"] is sample.labels["mask"]
    (back,), _ = flipped([swapped], 1.0)
    assert back == sample
    assert str(flipped([read(margin=0)], 1.0)[0][0].labels["margin"]) == "0.0"


def test_masks_are_lines_or_pictures(tmp_path: Path) -> None:
    lines = read(mask=[[0, 1], [0.5, 2]])
    assert lines.labels["mask"].tolist() == [[0, 1], [0.5, 2]]
    assert with_mask(lines.labels, "r") is lines.labels
    assert read(mask="m.png").labels["mask"] == File("/root-of-data", "m.png")
    grey = np.array([[0, 255, 51], [0, 0, 0]], dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "m.png")
    row = {"prompt": "a cat", "chosen": "a", "rejected": "b", "mask": "m.png"}
    pictured = read_record({**row, "chosen_image": None}, "r", 0, str(tmp_path)).sample
    decoded = with_mask(pictured.labels, "r")["mask"]
    assert decoded.dtype == np.float32
    assert decoded.tolist() == [[0, 1, pytest.approx(0.2)], [0, 0, 0]]


@pytest.mark.parametrize(
    "value", [[], [[]], [[1], [1, 2]], [1, 2], [[-1, 1]], [[0, 0]], [[float("nan")]], [["a"]]]
)
def test_other_masks_are_refused(value: Any) -> None:
    with pytest.raises(UserError, match="x.jsonl row 1, field 'mask': must"):
        read(mask=value)


def test_broken_mask_files_are_refused_with_the_row(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "black.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no picture")
    rules = {
        "black.png": "is black all over",
        "text.png": "not a picture",
        "none.png": "no such file",
        "../m": "outside",
    }
    for name, rule in rules.items():
        row = {"prompt": "P", "chosen_image": "a.png", "rejected_image": "a.png", "mask": name}
        with pytest.raises(UserError, match=f"pairs row 3, label mask: .*{rule}"):
            decode(read_record(row, "pairs row 3", 0, str(tmp_path)).sample)
