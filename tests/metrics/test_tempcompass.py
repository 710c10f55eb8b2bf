"""TempCompass: choices, yes or no, and captions to be matched."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmalign.metrics._resampling import figures
from mmalign.metrics.tempcompass import Tempcompass
from mmalign.types import UserError

CHOICE = {"question": "What is it doing?\nA. running\nB. jumping", "answer": "B. jumping"}
YES = {"question": "Is it jumping?", "answer": "yes"}
MATCH = {
    "question": "Which is right?\nCaption A: it runs\nCaption B: it jumps",
    "answer": "Caption B: it jumps",
}


def bench(folder: Path, **forms: dict[str, Any]) -> Tempcompass:
    files = {}
    for form, row in forms.items():
        path = folder / f"{form}.json"
        path.write_text(json.dumps({"17": {"action": [row], "speed": [row]}}))
        files[form.replace("multi_choice", "multi-choice")] = str(path)
    return Tempcompass(files, "clips")


def test_every_form(tmp_path: Path) -> None:
    metric = bench(tmp_path, multi_choice=CHOICE, yes_no=YES, caption_matching=MATCH)
    ids = [one.id for one in metric.ask()]
    assert ids[:2] == ["multi-choice/17/action/1", "multi-choice/17/speed/1"] and len(ids) == 6
    said = ["B", "A. running", "Yes, it is.", "No", "Caption B", "it jumps."]
    items = metric.grade(dict(zip(ids, said, strict=True)))
    found = figures(metric, items)
    assert found["acc"].value == pytest.approx(4 / 6) and found["unanswered"].value == 0
    assert found["macro"].value == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert items[0].groups == {"form": ("multi-choice",), "aspect": ("action",)} and items[0].cluster == "17"
    unread = metric.grade(dict(zip(ids, ["?", "?", "perhaps", "", "Caption C", "both"], strict=True)))
    assert figures(metric, unread)["unanswered"].value == 1


def test_refusals(tmp_path: Path) -> None:
    for form, row, words in (
        ("multi_choice", CHOICE | {"answer": "C. flying"}, "letter of one of the 2"),
        ("multi_choice", CHOICE | {"question": "What?"}, "must list its options"),
        ("yes_no", YES | {"answer": "maybe"}, "must be yes or no"),
        ("caption_matching", MATCH | {"answer": "it jumps"}, "must begin with the name of one option"),
    ):
        with pytest.raises(UserError, match=f"17 action 1: .*{words}"):
            bench(tmp_path, **{form: row}).ask()
    with pytest.raises(ValueError, match="must name files by form"):
        Tempcompass({"captioning": "x"}, "clips")
