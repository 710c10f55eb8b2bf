"""NLVR2: two pictures, a statement, and statements judged rightly of all their pairs."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmalign.metrics._measured import measured
from mmalign.metrics._resampling import figures
from mmalign.metrics.nlvr2 import Nlvr2
from mmalign.types import UserError


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_accuracy_and_consistency(tmp_path: Path) -> None:
    names = ("dev-850-0-0", "dev-850-1-0", "dev-850-0-1", "dev-7-0-0")
    rows = [
        {"identifier": n, "sentence": f"A {n}.", "label": ["True", "False"][i % 2]}
        for i, n in enumerate(names)
    ]
    metric = Nlvr2(write(tmp_path / "q.jsonl", rows), "photos")
    parts = metric.ask()[1].turns[0].parts
    assert [part.data.name for part in parts[:2]] == ["dev-850-1-img0.png", "dev-850-1-img1.png"]
    assert "A dev-850-1-0." in parts[2].data
    items = metric.grade(dict(zip(names, ["True.", "It is true", "yes", "perhaps"], strict=True)))
    found = figures(metric, items)
    assert found["acc"].value == 0.5 and found["unanswered"].value == 0.25
    assert found["consistency"].value == pytest.approx(
        1 / 3
    )  # 850-0 is wrong of one pair, 850-1 right, 7-0 wrong
    assert {item.cluster for item in items} == {"850", "7"}


def test_a_statement_counts_where_all_its_pairs_were_answered(tmp_path: Path) -> None:
    """Statement 1-0 is right of three of its four pairs; without the fourth nothing can be said of it."""
    names = [f"dev-1-{pair}-0" for pair in range(4)] + ["dev-2-0-0"]
    rows = [{"identifier": name, "sentence": "s", "label": "True"} for name in names]
    metric = Nlvr2(write(tmp_path / "q.jsonl", rows), "photos")
    answers = dict.fromkeys(names, "True") | {"dev-1-3-0": "False"}
    whole = measured(metric, "nlvr2", {"answers": metric.grade(answers)}).whole
    assert (whole.num, whole.sides["answers"]["consistency"].value) == (5, 0.5)
    del answers["dev-1-3-0"]
    whole = measured(metric, "nlvr2", {"answers": metric.grade(answers)}).whole
    assert (whole.num, whole.sides["answers"]["consistency"].value) == (4, 1)
    del answers["dev-2-0-0"]
    whole = measured(metric, "nlvr2", {"answers": metric.grade(answers)}).whole
    assert (whole.num, whole.sides["answers"]["consistency"].value) == (3, None)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must have four parts"):
        Nlvr2(
            write(tmp_path / "q.jsonl", [{"identifier": "dev-1", "sentence": "x", "label": "True"}]), "p"
        ).ask()
    with pytest.raises(UserError, match="row 1: label must be one of True, False"):
        Nlvr2(
            write(tmp_path / "q.jsonl", [{"identifier": "d-1-1-1", "sentence": "x", "label": 3}]), "p"
        ).ask()
    with pytest.raises(ValueError, match="must hold {sentence}"):
        Nlvr2("q", "p", "True?")
