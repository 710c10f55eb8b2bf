"""Rows of a prompt file: a prompt with the groups it belongs to; refusals that name file and row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmalign.types import UserError

Groups = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Asked:
    """One prompt: its id (file and row), its text, and its groups by kind, {"category": ("Animals",)}."""

    id: str
    text: str
    groups: Groups


class PromptFile(Protocol):
    """What the dataclasses of this folder have in common: a path, and these two."""

    @staticmethod
    def fits(path: Path) -> bool:
        """True if an existing file or folder looks like this form; only its beginning is read."""

    def read(self) -> list[Asked]:
        """Every different prompt, in the order of the file. Raises UserError naming file and row."""


def place_of(path: str) -> Path:
    """The file or folder; UserError if there is none."""
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"evaluation.prompts.path: there is no file {path}")
    return place


def check_path(path: str) -> None:
    """Raise ValueError for an empty path."""
    if not path.strip():
        raise ValueError("path: must name a file, got an empty string")


def text_of(path: Path) -> str:
    """A file as text; UserError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8 ({error.reason} at byte {error.start})") from error


def head_of(path: Path) -> str:
    """The beginning of a file as text, empty for what is no text file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(4096).decode("utf-8-sig", "ignore").lstrip()


def json_of(path: Path) -> Any:
    """A JSON file; UserError naming the line if it is none."""
    try:
        return json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: not JSON ({error.msg})") from error


def prompt_text(value: Any, where: str, field: str) -> str:
    """A prompt's words without spaces at their ends; UserError unless there are some."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {field} must be a text that is not empty, got {value!r:.60}")
    return value.strip()


def different(rows: Iterable[Asked], where: Path) -> list[Asked]:
    """The rows with every text once, the first time it stands, in all groups of its repeats.

    Raises UserError if there is no row at all.
    """
    found: dict[str, Asked] = {}
    for row in rows:
        known = found.get(row.text)
        found[row.text] = row if known is None else Asked(known.id, row.text, _joined(known, row))
    if not found:
        raise UserError(f"{where}: holds no prompt")
    return list(found.values())


def _joined(first: Asked, second: Asked) -> dict[str, tuple[str, ...]]:
    kinds = [*first.groups, *(kind for kind in second.groups if kind not in first.groups)]
    return {
        kind: tuple(dict.fromkeys([*first.groups.get(kind, ()), *second.groups.get(kind, ())]))
        for kind in kinds
    }


def spread(rows: Sequence[Asked], count: int | None) -> list[Asked]:
    """`count` of the rows, evenly spread over the file so that every part of it is represented; None: all."""
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[place * len(rows) // count] for place in range(count)]
