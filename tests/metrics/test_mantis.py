"""Mantis-Eval: choices and short answers over several pictures."""

from pathlib import Path

import pytest
from metrics.test_nlvr2 import write

from mmalign.metrics._resampling import figures
from mmalign.metrics.mantis import Mantis
from mmalign.types import UserError

CHOICE = {
    "id": "1",
    "question": "<image> or <image>?",
    "images": ["a.jpg", "b.jpg"],
    "options": ["(A) first", "(B) second"],
}
SHORT = {"id": "2", "question": "How many?", "images": ["a.jpg"], "options": [], "answer": "Two cups"}


def test_both_forms(tmp_path: Path) -> None:
    rows = [
        CHOICE | {"answer": "B", "question_type": "multi-choice"},
        SHORT | {"question_type": "short-answer"},
    ]
    metric = Mantis(write(tmp_path / "q.jsonl", rows), "photos")
    first, second = metric.ask()
    assert [part.kind for part in first.turns[0].parts] == ["image", "text", "image", "text"]
    assert first.turns[0].parts[3].data.startswith("?\nA. first\nB. second\n")
    assert [part.kind for part in second.turns[0].parts] == ["image", "text"]
    for answers, right in (
        ({"1": "second", "2": "two cups."}, 1.0),
        ({"1": "<answer>(b)</answer>", "2": "**Two cups**"}, 1.0),
        ({"1": "A", "2": "two cups there"}, 0.0),
    ):
        items = metric.grade(answers)
        assert figures(metric, items)["acc"].value == right
    assert items[1].groups == {"question_type": ("short-answer",)}


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 places for 1 pictures"):
        Mantis(write(tmp_path / "q.jsonl", [CHOICE | {"answer": "B", "images": ["a.jpg"]}]), "photos").ask()
    with pytest.raises(UserError, match="row 1: images must be a list"):
        Mantis(write(tmp_path / "q.jsonl", [SHORT | {"images": "a.jpg"}]), "photos").ask()
