"""Two folders, winners and losers: files of the same name, in whatever format, are the sides of a pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.data._folders import caption_beside, media_files, metadata_of, metadata_rows
from mmalign.data._paths import kind_of
from mmalign.data._sources import Row, SourceOptions
from mmalign.types import UserError


@dataclass(frozen=True, kw_only=True)
class FolderPairs(SourceOptions):
    """The folders `winners` and `losers` inside `path`; a.png in one and a.webp in the other are a pair, and
    so are clips. The name without its ending is the id.

    Captions: a.txt beside the winner, or rows {file_name, text or caption} in `path`/captions.jsonl (or .csv,
    or metadata.jsonl, .csv), whose `file_name` is the winner's, with or without its ending. A file without
    its other side or without a caption is a broken row.
    """

    path: str  # folder of both folders and, if there is one, the captions' file
    winners: str = "winners"  # folder of the better pictures or clips
    losers: str = "losers"  # folder of the worse ones

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.winners == self.losers:
            raise ValueError(f"losers: must be another folder than winners, got {self.losers!r}")

    @property
    def folder(self) -> str:
        """`root`, or the folder itself."""
        return self.root or str(Path(self.path).expanduser())

    @property
    def title(self) -> str:
        """The path as the config gives it."""
        return repr(self.path)

    def records(self) -> Iterator[Row]:
        """Every name with its origin, sorted."""
        base = Path(self.path).expanduser()
        names = (self.winners, self.losers)
        sides = [_by_stem(media_files(base / name, "data.path")) for name in names]
        listed = metadata_of(base)
        captions = {} if listed is None else _captions(listed)
        for stem in sorted(sides[0].keys() | sides[1].keys()):
            origin = f"{self.winners}/{stem}"
            try:
                files = [_only(side[stem], name, stem) for side, name in zip(sides, names, strict=True)]
                yield origin, _pair(stem, files, base, captions)
            except UserError as error:
                yield origin, UserError(f"{origin}: {error}")


def _by_stem(files: list[Path]) -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        found[file.stem].append(file)
    return found


def _only(files: list[Path], folder: str, stem: str) -> Path:
    if len(files) == 1:
        return files[0]
    what = f"{len(files)} files" if files else "no picture or clip"
    raise UserError(f"the folder {folder!r} has {what} of that name; a pair needs one on each side")


def _pair(stem: str, files: list[Path], base: Path, captions: Mapping[str, Any]) -> dict[str, Any]:
    kinds = [kind_of(file.name) for file in files]
    if kinds[0] != kinds[1]:
        raise UserError(f"{files[0].name} is a {kinds[0]} and {files[1].name} a {kinds[1]}")
    caption = caption_beside(files[0])
    caption = captions.get(stem, captions.get(files[0].name)) if caption is None else caption
    if caption is None:
        raise UserError(f"has no caption; write {stem}.txt beside the winner, or a row in captions.jsonl")
    better, worse = ({kind: str(file.relative_to(base))} for kind, file in zip(kinds, files, strict=True))
    return {"id": stem, "prompt": caption, "chosen": better, "rejected": worse}


def _captions(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for origin, row in metadata_rows(file):
        if isinstance(row, UserError):
            raise row
        assert isinstance(row, Mapping)
        caption = row.get("text") if row.get("text") is not None else row.get("caption")
        if not isinstance(row.get("file_name"), str) or not isinstance(caption, str):
            raise UserError(f"{origin}: needs file_name and text (or caption); it has {', '.join(row)}")
        name = Path(row["file_name"]).name
        if name in found:
            raise UserError(f"{origin}: {name!r} has a caption in an earlier row too")
        found[name] = caption
    return found
