"""Pick-a-Pic rows: which picture was picked, ties, rows that nobody judged."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_inputs import png
from data.format_rows import PICK_A_PIC, answer_of, changed, prompt_of, read_rows

from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.parquet import Parquet
from mmalign.types import UserError


def row(label_0: float | None, label_1: float | None, **change: Any) -> dict[str, Any]:
    sizes = ((8, 6), (10, 6))
    pictures = {f"jpg_{n}": png(size) for n, size in enumerate(sizes)}
    return {
        "are_different": True,
        "best_image_uid": "u",
        "caption": "a cat",
        "has_label": label_0 is not None,
        "image_0_uid": "u",
        "image_1_uid": "v",
        **pictures,
        "label_0": label_0,
        "label_1": label_1,
        "ranking_id": 3,
        "user_id": 17,
        **change,
    }


def parquet(folder: Path, *rows: dict[str, Any], **options: Any) -> Parquet:
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "x.parquet")
    return Parquet(path=str(folder / "x.parquet"), **options)


ROWS = (row(1.0, 0.0), row(0.0, 1.0), row(0.5, 0.5), row(None, None), row(1.0, 0.0, has_label=False))


def test_picked_pictures_from_parquet(tmp_path: Path) -> None:
    data = load(parquet(tmp_path, *ROWS))
    assert [sample.origin for sample in data.samples] == ["x.parquet row 1", "x.parquet row 2"]
    widths = [
        tuple(decode(sample).examples[role][0].response[0].data.size[0] for role in ("chosen", "rejected"))
        for sample in data.samples
    ]
    assert widths == [(8, 10), (10, 8)]
    assert prompt_of(data.samples[0], "chosen") == [("text", "a cat")]
    assert data.samples[0].labels == {"user": 17, "tie": 0.0}
    lines = data.report.lines()
    assert lines[0].endswith("read as pick_a_pic rows (caption, jpg_0, jpg_1, label_0)")
    assert lines[1:4] == [
        "data: 2 of 5 rows used (chosen 2, rejected 2)",
        "data: 2 rows left out: without a label",
        "data: 1 tie (left out; ties: keep keeps them)",
    ]


def test_ties_can_be_kept(tmp_path: Path) -> None:
    data = load(parquet(tmp_path, *ROWS, ties="keep"))
    assert [sample.labels["tie"] for sample in data.samples] == [0.0, 0.0, 1.0]
    assert "data: 1 tie (kept, in the file's order)" in data.report.lines()


def test_a_file_without_any_preference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no row holds a preference \(ties 1, without a label 2\)"):
        load(parquet(tmp_path, *ROWS[2:]))


def test_the_second_label_may_be_missing(tmp_path: Path) -> None:
    less = changed(PICK_A_PIC, label_0=0, label_1=..., has_label=...)
    (sample,) = read_rows(tmp_path, less).samples
    assert [answer_of(sample, role) for role in ("chosen", "rejected")] == ["image:b.png", "image:a.png"]


@pytest.mark.parametrize("labels", [(1.0, 1.0), (0.0, 0.0), (0.7, 0.3), (0.5, 1.0)])
def test_labels_that_say_nothing_are_refused(tmp_path: Path, labels: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"x.parquet row 1, field 'label_0': beside label_1 must be"):
        load(parquet(tmp_path, row(*labels)))


@pytest.mark.parametrize(("best", "width"), [("u", 8), ("v", 10)])
def test_the_best_picture_by_its_id_where_there_are_no_labels(best: str, width: int, tmp_path: Path) -> None:
    less = {key: value for key, value in row(1.0, 0.0, best_image_uid=best).items() if "label" not in key}
    tie = {**less, "best_image_uid": "tie"}
    data = load(parquet(tmp_path, less, tie))
    (sample,) = data.samples
    assert decode(sample).examples["chosen"][0].response[0].data.size[0] == width
    assert data.report.ties_dropped == 1
    with pytest.raises(UserError, match="'best_image_uid': must be tie or one of the two pictures' ids"):
        load(parquet(tmp_path, {**less, "best_image_uid": "w"}))


def test_copies_without_pictures_are_refused(tmp_path: Path) -> None:
    less = {key: value for key, value in row(1.0, 0.0).items() if not key.startswith("jpg")}
    less |= {"image_0_url": "https://example.org/0.png", "image_1_url": "https://example.org/1.png"}
    with pytest.raises(UserError, match="'jpg_0': is missing: this copy of the data has addresses only"):
        load(parquet(tmp_path, less))
