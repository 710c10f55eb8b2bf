"""POPE: its table of right and wrong answers, its rule for reading an answer, its files."""

import json
from pathlib import Path

import pytest

from mmalign.metrics._resampling import figures
from mmalign.metrics._yes_no import first_sentence, is_clear
from mmalign.metrics.pope import Pope
from mmalign.types import UserError


def write(path: Path, labels: list[str], per_image: int = 2) -> Path:
    rows = [
        {"question_id": i, "image": f"{i // per_image}.jpg", "text": f"Is there a {i}?", "label": label}
        for i, label in enumerate(labels, 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def values(metric: Pope, said: list[str]) -> dict[str, float | None]:
    answers = {question.id: text for question, text in zip(metric.ask(), said, strict=True)}
    return {name: figure.value for name, figure in figures(metric, metric.grade(answers)).items()}


def test_worked_table(tmp_path: Path) -> None:
    """TP 40, FP 5, TN 45, FN 10."""
    labels = ["yes"] * 40 + ["no"] * 5 + ["no"] * 45 + ["yes"] * 10
    said = ["Yes."] * 45 + ["No, there is none."] * 55
    metric = Pope(str(write(tmp_path / "q.jsonl", labels)), "photos")
    found = values(metric, said)
    assert found["acc"] == pytest.approx(0.85) and found["precision"] == pytest.approx(0.888889, abs=1e-6)
    assert found["recall"] == pytest.approx(0.8) and found["f1"] == pytest.approx(0.842105, abs=1e-6)
    assert found["yes_ratio"] == pytest.approx(0.45) and found["unclear"] == 0


@pytest.mark.parametrize(
    ("answer", "said", "clear"),
    [
        ("Yes. There is not much else.", "yes", True),  # only the first sentence counts
        ("No, there is none", "no", True),
        ("There is not a dog", "no", True),
        ("NO", "yes", True),  # the rule knows No, no and not, nothing else
        ("nothing of that sort", "yes", False),
        ("", "yes", False),
        ("Yes, no doubt", "no", True),
        ("Not at all", "yes", True),
    ],
)
def test_the_rule_of_the_first_sentence(answer: str, said: str, clear: bool) -> None:
    assert first_sentence(answer) == said and is_clear(answer) == clear


def test_splits_groups_and_pictures(tmp_path: Path) -> None:
    files = {split: str(write(tmp_path / f"{split}.jsonl", ["yes", "no"])) for split in ("random", "popular")}
    metric = Pope(files, "photos")
    asked = metric.ask()
    assert [one.id for one in asked] == ["random/1", "random/2", "popular/1", "popular/2"]
    assert [part.kind for part in asked[0].turns[0].parts] == ["image", "text"]
    items = metric.grade({"popular/1": "no"})
    assert [item.id for item in items] == ["popular/1"] and items[0].groups == {"split": ("popular",)}
    assert items[0].cluster == "0.jpg" and items[0].counts["fn"] == 1
    single = Pope(str(tmp_path / "popular.jsonl"), "photos")
    assert single.ask()[0].id == "popular/1"


def test_prediction_files(tmp_path: Path) -> None:
    metric = Pope(str(write(tmp_path / "coco_random.jsonl", ["yes", "no"])), "photos")
    given = tmp_path / "answers.jsonl"
    given.write_text('{"question_id": 1, "text": "yes"}\n{"question_id": 2, "text": "no"}\n')
    assert metric.predictions(given) == {"random/1": "yes", "random/2": "no"}
    given.write_text('{"question_id": 1, "text": "yes"}\n{"question_id": 1, "text": "no"}\n')
    with pytest.raises(UserError, match="row 2: id '1' has two different answers"):
        metric.predictions(given)
    given.write_text('{"number": 1, "text": "yes"}\n')
    with pytest.raises(UserError, match="row 1: needs an id"):
        metric.predictions(given)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"q.jsonl row 1: label must be one of yes, no, got 'perhaps'"):
        Pope(str(write(tmp_path / "q.jsonl", ["perhaps"])), "photos").ask()
    with pytest.raises(UserError, match="No such file"):
        Pope(str(tmp_path / "none.jsonl"), "photos").ask()
    (tmp_path / "q.jsonl").write_text('{"id": 1, "question": "Is it?", "image": "a", "label": "yes"}\n')
    needs = (
        "row 1: needs the fields question_id, image, text, label; it lacks question_id, text and has id, que"
    )
    with pytest.raises(UserError, match=needs):
        Pope(str(tmp_path / "q.jsonl"), "photos").ask()
    with pytest.raises(ValueError, match="images: must name"):
        Pope("q.jsonl", " ")


def test_the_real_files(test_data: Path) -> None:
    folder = test_data / "image_text" / "eval"
    files = {
        split: str(folder / f"pope_coco_{split}.jsonl") for split in ("random", "popular", "adversarial")
    }
    metric = Pope(files, str(test_data / "image_text" / "coco"))
    asked = metric.ask()
    assert len(asked) == 9000 and len({one.id for one in asked}) == 9000
    items = metric.grade({one.id: "yes" for one in asked})
    found = figures(metric, items)
    assert found["acc"].value == pytest.approx(0.5, abs=0.01) and found["recall"].value == 1
    assert found["yes_ratio"] == found["recall"]
