"""AMBER: things named against what is there, and yes or no with No as the positive answer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmalign.metrics._resampling import figures
from mmalign.metrics._seam import Sums
from mmalign.metrics.amber import Amber
from mmalign.types import UserError

TABLE = {
    "person": ["man", "woman"],
    "tree": ["forest"],
    "bush": ["forest"],
    "dog": [],
    "sky": [],
    "car": ["vehicle"],
    "sun": [],
    "kite": [],
}


def amber(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Amber:
    (folder / "relation.json").write_text(json.dumps(TABLE))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Amber(str(folder / "rows.jsonl"), "photos", str(folder / "relation.json"), **options)


def description(name: int, truth: list[str], hallu: list[str]) -> dict[str, Any]:
    common = {"id": name, "image": f"{name}.jpg", "query": "Describe this image.", "type": "generative"}
    return {**common, "truth": truth, "hallu": hallu}


def judgement(name: int, truth: str, kind: str = "discriminative-hallucination") -> dict[str, Any]:
    return {"id": name, "image": "1.jpg", "query": "Is there a dog?", "type": kind, "truth": truth}


def values(metric: Amber, answers: dict[str, str]) -> dict[str, float | None]:
    return {name: figure.value for name, figure in figures(metric, metric.grade(answers)).items()}


def test_descriptions(tmp_path: Path) -> None:
    """Man, trees and sky are there (by association, by plural, as they are); dogs and the sun are not; a lamp
    is a word that nothing is known of. The sun was expected to be made up, the kite too."""
    metric = amber(tmp_path, [description(1, ["person", "tree", "sky", "car"], ["sun", "kite"])])
    found = values(metric, {"1": "A man under trees, a blue sky, two dogs, the sun, and a lamp."})
    assert found["chair"] == pytest.approx(100 * 2 / 5) and found["cover"] == 75
    assert (
        found["hal"] == 100 and found["cog"] == 50 and found["acc"] is None and found["amber_score"] is None
    )
    clean = values(metric, {"1": "A woman in a forest."})
    assert [clean[name] for name in ("chair", "cover", "hal", "cog")] == [0, 50, 0, 0]


def test_a_word_that_may_stand_for_several_things_covers_the_first(tmp_path: Path) -> None:
    metric = amber(tmp_path, [description(1, ["bush", "tree", "sky", "car"], [])])
    (item,) = metric.grade({"1": "A forest."})
    assert item.counts["covered"] == 1 and item.shown["covered"] == ["bush"]
    (item,) = metric.grade({"1": "A forest and a tree."})  # what is there by its own name counts as that
    assert item.shown["covered"] == ["bush", "tree"]


def test_questions_about_one_picture_are_drawn_together(tmp_path: Path) -> None:
    metric = amber(tmp_path, [description(1, ["sky"], []), judgement(2, "no"), description(3, ["sky"], [])])
    items = metric.grade({"1": "A sky.", "2": "No", "3": "A dog."})
    assert [item.cluster for item in items] == ["1.jpg", "1.jpg", "3.jpg"]


def test_safe_words_count_among_all_but_not_as_made_up(tmp_path: Path) -> None:
    (tmp_path / "safe.txt").write_text("dog\n")
    rows = [description(1, ["sky"], [])]
    metric = amber(tmp_path, rows, safe_words=str(tmp_path / "safe.txt"))
    assert values(metric, {"1": "a dog, the sky"})["chair"] == 0
    assert values(amber(tmp_path, rows), {"1": "a dog, the sky"})["chair"] == 50


def test_no_is_the_positive_answer(tmp_path: Path) -> None:
    """Two of three No are right; of two true no both are found."""
    metric = amber(tmp_path, [judgement(i, truth) for i, truth in enumerate(("no", "no", "yes", "yes"))])
    found = values(metric, {"0": "No", "1": "No", "2": "No", "3": "Yes"})
    p, r = 2 / 3, 1.0
    assert found["acc"] == 75 and found["precision"] == pytest.approx(100 * p) and found["recall"] == 100
    assert found["f1"] == pytest.approx(100 * 2 * p * r / (p + r + 1e-4), rel=1e-12)


def test_answers_to_the_letter(tmp_path: Path) -> None:
    rows = [judgement(i, "no") for i in range(3)]
    said = {"0": "No", "1": "No.", "2": "no, none"}
    assert values(amber(tmp_path, rows), said)["recall"] == pytest.approx(100 / 3)
    assert values(amber(tmp_path, rows), said)["neither"] == pytest.approx(200 / 3)
    assert values(amber(tmp_path, rows, exact=False), said)["recall"] == 100


def test_worked_score() -> None:
    """CHAIR 6.5 and F1 80 (without the small number below its bar) give 86.75."""
    one = lambda value: np.array([value])  # noqa: E731
    sums = Sums(
        {
            "unsafe": one(6.5),
            "nouns": one(100.0),
            "right_no": one(8e8),
            "said_no": one(1e9),
            "true_no": one(1e9),
        },
        1,
    )
    metric = Amber("q", "i", "a")
    assert metric.values(sums)["amber_score"][0] == pytest.approx(86.75, abs=3e-3)


def test_groups(tmp_path: Path) -> None:
    kinds = ("discriminative-attribute-state", "discriminative-relation", "relation")
    metric = amber(tmp_path, [judgement(i, "no", kind) for i, kind in enumerate(kinds)])
    listed = [item.groups["type"] for item in metric.grade(dict.fromkeys("012", "No"))]
    assert listed == [("state", "attribute"), ("relation",), ("relation",)]


def test_two_files_and_refusals(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text('[{"id": 1, "type": "relation", "truth": "no"}]')
    query = {"id": 1, "image": "1.jpg", "query": "Is it so?"}
    both = amber(tmp_path, [query], annotations=str(tmp_path / "annotations.json"))
    assert values(both, {"1": "No"})["acc"] == 100
    with pytest.raises(UserError, match="annotations.json has no id 2"):
        amber(tmp_path, [query | {"id": 2}], annotations=str(tmp_path / "annotations.json")).ask()
    with pytest.raises(UserError, match="row 1: type must be a text"):
        amber(tmp_path, [query]).ask()
    (tmp_path / "list.json").write_text("[]")
    bad = Amber(str(tmp_path / "rows.jsonl"), "photos", str(tmp_path / "list.json"))
    with pytest.raises(UserError, match="must be an object of lists"):
        _ = bad._words


def test_the_real_files(test_data: Path) -> None:
    """What is listed as there covers all of it and makes nothing up; what people make up is all of that."""
    folder = test_data / "image_text" / "eval"
    metric = Amber(str(folder / "amber_first200_images.jsonl"), "photos", str(folder / "amber_relation.json"))
    assert len(metric.ask()) == 3025
    rows = {name: row for name, row in metric._rows.items() if row.kind == "generative"}
    true = values(metric, {name: " and ".join(row.truth) for name, row in rows.items()})
    assert true["chair"] == 0 and true["hal"] == 0 and true["cog"] == 0 and (true["cover"] or 0) > 90
    false = values(metric, {name: " and ".join(row.target) for name, row in rows.items()})
    assert (false["chair"] or 0) > 90 and (false["cog"] or 0) > 80
    answers = {name: row.truth[0].capitalize() for name, row in metric._rows.items() if name not in rows}
    assert values(metric, answers)["acc"] == 100
