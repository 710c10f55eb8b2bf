"""Every broken data set and picture of the table ends in one clear line, and nothing is written."""

from pathlib import Path

import bad_inputs
import pytest

from mmalign.data._first_pass import first_pass
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError


def _listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def _assert_clear(message: str, words: tuple[str, ...]) -> None:
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", bad_inputs.FILES)
def test_broken_files_are_refused(name: str, tmp_path: Path) -> None:
    path, words = bad_inputs.FILES[name](tmp_path)
    before = _listing(tmp_path)
    with pytest.raises(UserError) as caught:
        load(Jsonl(path=str(path)))
    _assert_clear(str(caught.value), words)
    assert _listing(tmp_path) == before


@pytest.mark.parametrize("name", bad_inputs.IMAGES)
def test_broken_images_are_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    path, words = bad_inputs.IMAGES[name](folder)
    samples = load(Jsonl(path=str(path))).samples
    with pytest.raises(UserError) as caught:
        first_pass(samples, lambda sample: ())
    _assert_clear(str(caught.value), words)


@pytest.mark.parametrize("name", list(bad_inputs.IMAGES))
def test_broken_images_are_skipped_by_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    path, words = bad_inputs.IMAGES[name](folder)
    result = first_pass(load(Jsonl(path=str(path))).samples, lambda sample: (), "skip")
    assert [sample.origin for sample in result.kept] == ["images.jsonl row 1"]
    assert [row.origin for row in result.skipped] == ["images.jsonl row 2"]
    _assert_clear(result.skipped[0].reason, words)
    assert "1 of 2 rows left out (50.0 %); that is more than 1 %" in result.lines()[0]


_FILE_LEVEL = ("UTF-16", "gzip", "parquet", "empty", "missing", "folder", "ids twice")
# Files of which no row is sound; the file as a whole is refused under "skip" too.
_ONLY_ROW = ("no object", "key twice", "UTF-16 without mark", "Latin-1", "NaN", "Infinity", "overflow")


@pytest.mark.parametrize(
    "name", [name for name in bad_inputs.FILES if name not in (*_FILE_LEVEL, *_ONLY_ROW, "deep nesting")]
)
def test_broken_rows_are_skipped_by_name(name: str, tmp_path: Path) -> None:
    path, words = bad_inputs.FILES[name](tmp_path)
    data = load(Jsonl(path=str(path), on_error="skip"))
    assert data.samples[0].origin == "bad.jsonl row 1"
    assert [row.origin for row in data.report.skipped] == ["bad.jsonl row 2"]
    _assert_clear(data.report.skipped[0].reason, words)
    assert any("1 broken rows left out" in line for line in data.report.lines())


@pytest.mark.parametrize("name", _ONLY_ROW)
def test_a_file_of_broken_rows_is_refused_under_skip_too(name: str, tmp_path: Path) -> None:
    path, words = bad_inputs.FILES[name](tmp_path)
    with pytest.raises(UserError, match="rows are broken") as caught:
        load(Jsonl(path=str(path), on_error="skip"))
    _assert_clear(str(caught.value), words)
