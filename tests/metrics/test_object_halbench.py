"""Object HalBench: made-up objects per description that names any, and per mention."""

from pathlib import Path

import pytest
from metrics.test_chair import coco
from metrics.test_nlvr2 import write

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.metrics._resampling import figures
from mmalign.metrics.object_halbench import ObjectHalbench
from mmalign.types import UserError


def by_commas(texts: list[str]) -> list[list[str]]:
    """An extractor: what stands between commas."""
    return [[part.strip() for part in text.split(",")] for text in texts]


def too_few(texts: list[str]) -> list[list[str]]:
    """A broken one."""
    return []


def bench(folder: Path, **options: str) -> ObjectHalbench:
    chair = coco(folder, {11: ["dog", "cat"], 12: ["car"], 13: ["bed"]})
    assert chair.captions is not None
    rows = [{"image_id": i, "question": f"Describe {i}."} for i in (11, 12, 13)]
    return ObjectHalbench(
        write(folder / "q.jsonl", rows), chair.instances, chair.captions, "photos", **options
    )


def test_rates(tmp_path: Path) -> None:
    """Of three descriptions two name an object; one of these makes one up, by two of its three mentions."""
    metric = bench(tmp_path)
    answers = {"1": "A dog with a kite and two kites.", "2": "A car.", "3": "Nothing much."}
    found = {name: figure.value for name, figure in figures(metric, metric.grade(answers)).items()}
    assert found == {"response_rate": 0.5, "mention_rate": 0.5, "recall": 0.5}
    assert "list of names" in metric.notes[0]


def test_an_extractor_of_your_own(tmp_path: Path) -> None:
    metric = bench(tmp_path, extractor="metrics.test_object_halbench:by_commas")
    metric.ready()
    (item,) = metric.grade({"1": "puppies, a sofa, happiness"})
    assert (
        item.counts["mentions"] == 2 and item.shown["wrong"] == [["sofa", "couch"]] and item.cluster == "11"
    )
    with pytest.raises(UserError, match="gives 0 lists for 1 texts"):
        bench(tmp_path, extractor="metrics.test_object_halbench:too_few").grade({"1": "a dog"})
    with pytest.raises(UserError, match="extractor metrics.test_object_halbench:none"):
        bench(tmp_path, extractor="metrics.test_object_halbench:none").ready()
    with pytest.raises(ValueError, match="must be package.module:function"):
        bench(tmp_path, extractor="rules")
    section = {"name": "object_halbench", "questions": "q", "instances": "i", "captions": "c", "images": "p"}
    with pytest.raises(UserError, match="would import code"):
        build_named(KINDS["metrics"], section | {"extractor": "outside.code:function"}, "metric", False)


def test_prediction_files_by_row_or_picture(tmp_path: Path) -> None:
    metric = bench(tmp_path)
    path = Path(write(tmp_path / "a.jsonl", [{"image_id": 12, "answer": "A car."}]))
    assert metric.predictions(path) == {"2": "A car."}
    path = Path(write(tmp_path / "a.jsonl", [{"question_id": 2, "answer": "A car."}]))
    assert metric.predictions(path) == {"2": "A car."}


def test_rows_counted_from_zero(tmp_path: Path) -> None:
    """A whole file is told from its numbers, where a part of one would give answers to the wrong pictures."""
    metric, said = bench(tmp_path), ["A dog and a cat.", "A car.", "A bed."]

    def given(*ids: int, field: str = "question_id") -> dict[str, str]:
        rows = [{field: one, "answer": text} for one, text in zip(ids, said, strict=False)]
        return metric.predictions(Path(write(tmp_path / "a.jsonl", rows)))

    right = dict(zip("123", said, strict=True))
    assert given(1, 2, 3) == given(0, 1, 2) == given(11, 12, 13, field="image_id") == right
    assert given(1, 2) == {"1": said[0], "2": said[1]} and given(11, 99) == {"1": said[0], "99": said[1]}
    for ids in ((0, 1), (0, 2, 3), (0, 1, 3)):
        with pytest.raises(UserError, match="a.jsonl: has an id '0', and these ids count from 1; count from"):
            given(*ids)
    with pytest.raises(UserError, match="id '2' is the number of a row and others are image_ids"):
        given(11, 2)
    assert figures(metric, metric.grade(given(0, 1, 2)))["mention_rate"].value == 0


def test_ids_that_may_be_of_rows_or_of_pictures(tmp_path: Path) -> None:
    chair = coco(tmp_path, {2: ["dog"], 1: ["car"], 13: ["bed"]})
    assert chair.captions is not None
    rows = [{"image_id": i, "question": "Describe."} for i in (2, 1, 13)]
    metric = ObjectHalbench(write(tmp_path / "q.jsonl", rows), chair.instances, chair.captions, "photos")

    def given(*ids: int) -> dict[str, str]:
        rows = [{"question_id": one, "answer": f"said {one}"} for one in ids]
        return metric.predictions(Path(write(tmp_path / "a.jsonl", rows)))

    for ids in ((1,), (1, 2), (2, 99)):
        with pytest.raises(UserError, match=f"ids such as '{ids[0]}' are numbers of rows and also image_ids"):
            given(*ids)
    assert given(2, 13) == {"1": "said 2", "3": "said 13"} and given(3) == {"3": "said 3"}
    assert given(1, 2, 3) == {str(i): f"said {i}" for i in (1, 2, 3)}


def test_refusals(tmp_path: Path) -> None:
    metric = bench(tmp_path)
    write(tmp_path / "q.jsonl", [{"image_id": 99, "question": "?"}])
    with pytest.raises(UserError, match="q.jsonl row 1: .* has no picture 99"):
        metric.ask()
