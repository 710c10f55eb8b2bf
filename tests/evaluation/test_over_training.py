"""Answers over training on the disk: kept, read back, and taken back by a run that repeats steps."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mmalign.evaluation.over_training import LONGEST, Snapshot, forget, keep, read
from mmalign.types import Part, UserError


def drawn(step: int, side: int = 24) -> Snapshot:
    pictures = tuple(Part("image", Image.new("RGB", (side, side), (step, shade, 9))) for shade in (10, 200))
    return Snapshot(step, ("a", "b"), ("a fox", "<b>"), pictures)


def test_snapshots_come_back_in_order(tmp_path: Path) -> None:
    for step in (20, 0, 100):
        keep(tmp_path, drawn(step))
    found = read(tmp_path)
    assert [one.step for one in found] == [0, 20, 100] and found[1].texts == ("a fox", "<b>")
    assert found[1].answers[1].data.getpixel((3, 3)) == (20, 200, 9)
    names = {path.name for path in (tmp_path / "evaluation" / "grid").iterdir()}
    assert {"step-000020.json", "step-000020-00.png", "step-000020-01.png"} <= names and len(names) == 9


def test_texts_are_kept_as_they_are(tmp_path: Path) -> None:
    one = Snapshot(7, ("x",), ("say é\n",), (Part("text", "</p> é\ud800"),))
    keep(tmp_path, one)
    assert read(tmp_path) == [one]


def test_large_pictures_are_made_small_and_small_ones_left(tmp_path: Path) -> None:
    keep(tmp_path, Snapshot(0, ("x",), ("x",), (Part("image", Image.new("RGB", (800, 400))),)))
    assert read(tmp_path)[0].answers[0].data.size == (LONGEST, LONGEST // 2)


def test_steps_that_are_done_again_are_forgotten(tmp_path: Path) -> None:
    forget(tmp_path, 0)  # nothing there yet
    for step in (0, 20, 40):
        keep(tmp_path, drawn(step))
    other = tmp_path / "evaluation" / "grid" / "mine.png"
    other.write_bytes(b"kept")
    forget(tmp_path, 20)
    assert [one.step for one in read(tmp_path)] == [0, 20] and other.exists()
    forget(tmp_path, -1)
    assert read(tmp_path) == [] and list(other.parent.iterdir()) == [other]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluation.grid: text and pictures can be kept, got video"):
        keep(tmp_path, Snapshot(0, ("x",), ("x",), (Part("video", None),)))
    keep(tmp_path, drawn(3))
    path = tmp_path / "evaluation" / "grid" / "step-000003.json"
    tree = json.loads(path.read_text())
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    for change in (
        {"rows": [{"id": "a"}]},
        {"rows": [{**tree["rows"][0], "file": "../../secret.png"}]},
        {"step": "x"},
    ):
        path.write_text(json.dumps(tree | change))
        with pytest.raises(UserError, match="step-000003.json: not answers over training"):
            read(tmp_path)
