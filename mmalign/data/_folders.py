"""Folders of pictures and clips: which files count, and where their captions stand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmalign._relative import started_from
from mmalign.data._paths import is_media
from mmalign.data._sources import Row
from mmalign.data.csv import Csv
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError

_METADATA = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")


def media_files(folder: Path, setting: str) -> list[Path]:
    """Pictures and clips of a folder by name, without those of its folders and hidden ones."""
    if not folder.is_dir():
        raise UserError(f"{setting} {str(folder)!r}: no such folder{started_from(str(folder))}")
    files = (file for file in folder.iterdir() if not file.name.startswith("."))
    return sorted((file for file in files if is_media(file.name)), key=lambda file: file.name)


def metadata_of(folder: Path) -> Path | None:
    """The file with the captions of a folder; None if there is none. Raises UserError for several."""
    found = [folder / name for name in _METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{folder}: has {found[0].name} and {found[1].name}; keep one")
    return found[0] if found else None


def metadata_rows(file: Path) -> Iterator[Row]:
    """The rows of a metadata file with their origins."""
    if file.suffix == ".csv":
        return Csv(path=str(file)).records()
    return Jsonl(path=str(file)).records()


def caption_beside(file: Path) -> str | None:
    """The text of the .txt file of the same name beside a medium; None if there is none."""
    text = file.with_suffix(".txt")
    if not text.is_file():
        return None
    try:
        return text.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{text.name}: not UTF-8 at byte {error.start}") from None
