"""A folder of captioned pictures or clips: their captions in metadata.jsonl or .csv, or .txt files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.data._folders import caption_beside, media_files, metadata_of, metadata_rows
from mmalign.data._formats import LeftOut
from mmalign.data._sources import Row, SourceOptions
from mmalign.types import UserError


@dataclass(frozen=True, kw_only=True)
class ImageFolder(SourceOptions):
    """Files of the folder `path`, or of its folders train, test, ..., which are then the splits.

    Rows of the metadata hold `file_name` and `text` (or `caption`), and `label` or `score` where there are
    any: format image_text. Files that no row names are left out and counted. Without metadata the caption
    of a.png is a.txt.
    """

    path: str  # folder of pictures with metadata or captions, or of folders train, test, ...

    @property
    def folder(self) -> str:
        """`root`, or the folder itself."""
        return self.root or str(Path(self.path).expanduser())

    @property
    def title(self) -> str:
        """The path as the config gives it."""
        return repr(self.path)

    def records(self) -> Iterator[Row]:
        """Every captioned file with its origin, then the files that no row names."""
        base = Path(self.path).expanduser()
        here = media_files(base, "data.path")
        if here or metadata_of(base) is not None:
            yield from _folder_rows(base, "", here)
            return
        inner = sorted(one for one in base.iterdir() if one.is_dir() and not one.name.startswith("."))
        for folder in inner:
            for origin, row in _folder_rows(folder, folder.name, media_files(folder, "data.path")):
                own = isinstance(row, Mapping) and row.get("split") is None
                yield origin, {**row, "split": folder.name} if own else row  # type: ignore[dict-item]


def _folder_rows(folder: Path, prefix: str, files: list[Path]) -> Iterator[Row]:
    listed = metadata_of(folder)
    if listed is None:
        for file in files:
            yield _beside(file, prefix)
        return
    named = set()
    for place, row in metadata_rows(listed):
        origin = f"{prefix}/{place}" if prefix else place
        if not isinstance(row, Mapping):
            yield origin, row
            continue
        name = row.get("file_name")
        if not isinstance(name, str):
            yield origin, UserError(f"{origin}: needs file_name; its columns are {', '.join(row)}")
            continue
        named.add(Path(name).as_posix())
        yield origin, {**row, "file_name": str(Path(prefix) / name)}
    for file in files:
        if file.name not in named:
            yield str(Path(prefix) / file.name), LeftOut(f"files that no row of {listed.name} names")


def _beside(file: Path, prefix: str) -> tuple[str, dict[str, Any] | UserError]:
    origin = str(Path(prefix) / file.name)
    try:
        caption = caption_beside(file)
    except UserError as error:
        return origin, error
    if caption is None:
        rule = f"has no caption; write {file.stem}.txt beside it, or a metadata.jsonl"
        return origin, UserError(f"{origin}: {rule}")
    return origin, {"file_name": origin, "text": caption}
