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


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("True", "True"), ("false.", "False"), ("Yes, both are.", "True"), ("No.", "False"), ("no", "False"),
        ("No, the left one is red", "False"), ("**False**", "False"), ("<answer>True</answer>", "True"),
        ("The statement is not true.", "False"), ("It is not true", "False"), ("Not true", "False"),
        ("untrue", "False"), ("It isn't true.", "False"), ("The statement is incorrect", "False"),
        ("The statement is indeed true.", "True"), ("The answer is: False", "False"),
        ("It is not false", "True"), ("This is false: no dogs", "False"), ("It's true", "True"),
        ("There is no dog in the left picture, so the statement is true.", "True"),
        ("There is no dog in the left picture", None), ("No dog is in the left picture", None),
        ("No, it is true that a dog is there", None), ("True or false", None), ("Yes or no", None),
        ("I do not say that it is not true", None),
        ("I am not sure whether it is true", None), ("It may be true or false", None), ("", None),
        ("It is true of one. It is not true of both.", None), ("I see a true story", None),
        # behind reasoning
        ("The left has two dogs. So the answer is: True", "True"), ("So the answer is yes.", "True"),
        ("Looking at both, the answer is no.", "False"), ("Thus, the answer is: no", "False"),
        ("I see two.\nAnswer: False", "False"), ("The two differ. Answer: No", "False"),
        ("Final answer: True", "True"), ("**Final answer:** not true", "False"),
        ("The left has two dogs.\n\nTrue", "True"), ("Is it so?\n- **No**", "False"),
        ("Both show dogs. True.", "True"), ("I would say false", "False"), ("I'd say no.", "False"),
        ("I would answer True.", "True"), ("The statement is: false", "False"),
        ("The answer is no dog", None), ("I would say no dog is there", None),
        ("So the answer is yes or no", None),
        ("The answer is yes.\n\nNo", None), ("Yes. So the answer is no", None),
        ("It is true. Answer: False", None), ("If both are dogs, the answer is yes.", None),
        ("I don't think the answer is yes", None), ("The question is whether the answer is no.", None),
        ("I am not sure. Yes", None), ("Both show dogs. True?", None), ("The answer is yes? Hm", None),
        # only half so
        ("The statement is only partially true.", None), ("It is partly true", None),
        ("It is hardly true", None), ("It is not necessarily true", None), ("It is true only of one", None),
        ("It is true to some extent", None), ("It is not entirely true", "False"),
        ("Is it true? It is true?", None),
    ],
)  # fmt: skip
def test_what_an_answer_says_of_a_statement(answer: str, said: str | None, tmp_path: Path) -> None:
    row = {"identifier": "dev-1-0-0", "sentence": "s", "label": "True"}
    metric = Nlvr2(write(tmp_path / "q.jsonl", [row]), "photos")
    assert metric.said(metric.items["dev-1-0-0"], answer) == said


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
