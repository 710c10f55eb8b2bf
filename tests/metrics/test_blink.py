"""BLINK: choices over one to four pictures, and the mean over tasks."""

from pathlib import Path
from typing import Any

import pytest
from metrics.test_nlvr2 import write

from mmalign.metrics._resampling import figures
from mmalign.metrics.blink import Blink
from mmalign.types import UserError


def row(idx: str, task: str, answer: str, **more: Any) -> dict[str, Any]:
    common = {
        "idx": idx,
        "sub_task": task,
        "question": "Which?",
        "choices": ["cat", "dog"],
        "image_1": "1.jpg",
    }
    return {**common, "answer": answer, "image_2": None, **more}


def test_every_task_counts_once(tmp_path: Path) -> None:
    rows = [
        row("a1", "Art", "(A)"),
        row("a2", "Art", "(B)"),
        row("a3", "Art", "(A)"),
        row("c1", "Counting", "(B)"),
    ]
    metric = Blink(write(tmp_path / "q.jsonl", rows), "photos")
    found = figures(metric, metric.grade({"a1": "(A)", "a2": "A", "a3": "dog", "c1": "B."}))
    assert found["acc"].value == 0.5 and found["macro"].value == pytest.approx((1 / 3 + 1) / 2)


def test_pictures_and_prompts(tmp_path: Path) -> None:
    rows = [row("a", "Art", "(A)", image_2="2.jpg"), row("b", "Art", "(A)", prompt="All said. (A) (B)")]
    first, second = Blink(write(tmp_path / "q.jsonl", rows), "photos").ask()
    assert [part.kind for part in first.turns[0].parts] == ["image", "image", "text"]
    assert first.turns[0].parts[2].data == "Which?\nA. cat\nB. dog"
    assert second.turns[0].parts[1].data == "All said. (A) (B)"


def test_refusals(tmp_path: Path) -> None:
    for wrong, words in (
        (row("a", "Art", "(C)"), "letter of one of the 2"),
        (row("a", "Art", "(A)", image_1=""), "image_1"),
    ):
        with pytest.raises(UserError, match=words):
            Blink(write(tmp_path / "q.jsonl", [wrong]), "photos").ask()
    with pytest.raises(UserError, match="id 'a' occurs twice"):
        Blink(write(tmp_path / "q.jsonl", [row("a", "Art", "(A)")] * 2), "photos").ask()
