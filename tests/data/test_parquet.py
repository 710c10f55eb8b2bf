"""Parquet files with pictures inside, split folders, damaged files."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_inputs import png
from samples import text_of

from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.parquet import Parquet
from mmalign.types import UserError


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


PICTURES = [
    {
        "prompt": f"p{n}",
        "chosen_image": {"bytes": png((9, n + 5)), "path": None},
        "rejected_image": {"bytes": png()},
    }
    for n in range(2)
]


def test_pictures_inside_the_file(tmp_path: Path) -> None:
    samples = load(Parquet(path=str(write(tmp_path / "x.parquet", PICTURES)))).samples
    assert [sample.origin for sample in samples] == ["x.parquet row 1", "x.parquet row 2"]
    sizes = [decode(sample).examples["chosen"][0].response[0].data.size for sample in samples]
    assert sizes == [(9, 5), (9, 6)]


def test_columns_that_are_null_in_some_rows(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}]
    rows = [
        {"prompt": chat, "chosen": "a", "rejected": "b", "completion": None, "margin": None},
        {"prompt": chat, "chosen": None, "rejected": None, "completion": "c", "margin": 1.0},
    ]
    first, second = load(Parquet(path=str(write(tmp_path / "x.parquet", rows)))).samples
    assert (text_of(first, "rejected"), dict(first.labels)) == (("Hi", "b"), {})
    assert (text_of(second, "chosen"), dict(second.labels)) == (("Hi", "c"), {"margin": 1.0})


def test_folder_with_a_file_per_split(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write(tmp_path / f"{name}.parquet", rows)
    data = load(Parquet(path=str(tmp_path), split="train"))
    assert [sample.origin for sample in data.samples] == [
        "train-00000-of-00002.parquet row 1",
        "train-00001-of-00002.parquet row 1",
    ]
    assert len({sample.id for sample in data.samples}) == 2
    assert data.report.other_splits == {"test": 1}
    assert load(Parquet(path=str(tmp_path))).report.splits == {"train": 2, "test": 1}


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.parquet", PICTURES).read_bytes()
    for content in (whole[:-20], b"", b'{"prompt": "a"}\n', whole[:50] + b"\xff" * 40 + whole[90:]):
        (tmp_path / "bad.parquet").write_bytes(content)
        with pytest.raises(UserError) as caught:
            samples = load(Parquet(path=str(tmp_path / "bad.parquet"))).samples
            for sample in samples:
                decode(sample)
        assert "bad.parquet" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="gone.parquet.*no such file"):
        load(Parquet(path=str(tmp_path / "gone.parquet")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no .parquet file"):
        load(Parquet(path=str(tmp_path / "empty")))
