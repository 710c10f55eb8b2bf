"""CSV: a header of column names and one row a line, as spreadsheets write it; TSV by the file's ending."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mmalign.data._paths import existing_file
from mmalign.data._sources import Row, SourceOptions
from mmalign.types import UserError

_NUMBERS = frozenset(
    {"weight", "margin", "score", "chosen_score", "rejected_score", "label_0", "label_1", "rank"}
    | {"overall_rating", "image_text_alignment_rating", "fidelity_rating"}
)
_FLAGS = frozenset({"label", "tie", "has_label"})
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, kw_only=True)
class Csv(SourceOptions):
    """Rows of the UTF-8 file `path`; row N is the Nth below the header, line breaks inside quotes are fine.

    `delimiter`: what stands between cells (null: a tab for .tsv, else a comma). Empty cells are null. Cells
    are text, except in the fields that hold numbers (weight, margin, scores, ranks, ...) or truth values
    (label, tie: true, false, 1 or 0), also where `columns` maps those to columns of other names.
    """

    path: str  # file in UTF-8, whose first row names the columns
    delimiter: str | None = None  # what stands between cells; null: a tab for .tsv, else a comma

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ValueError(f"delimiter: must be one character, got {self.delimiter!r}")

    @property
    def folder(self) -> str:
        """`root`, or the folder of the file."""
        return self.root or str(Path(self.path).expanduser().parent)

    @property
    def title(self) -> str:
        """The path as the config gives it."""
        return repr(self.path)

    def records(self) -> Iterator[Row]:
        """Every row with its origin; one with more or fewer cells than the header comes as a UserError."""
        path = existing_file(self.path)
        fields = {column: field for field, column in self.columns.items() if column is not None}
        delimiter = self.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                yield from _rows(stream, path.name, delimiter, fields)
        except UnicodeDecodeError as error:
            raise UserError(f"{path.name}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _rows(stream: TextIO, name: str, delimiter: str, fields: Mapping[str, str]) -> Iterator[Row]:
    lines = csv.reader(stream, delimiter=delimiter, strict=True)
    header = _header(lines, name)
    number = 0
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{name} row {number + 1}, line {lines.line_num}: not valid CSV: {error}"
            ) from None
        if not cells:  # an empty line
            continue
        number += 1
        origin = f"{name} row {number}"
        if len(cells) != len(header):
            yield origin, UserError(f"{origin}: has {len(cells)} cells, the header has {len(header)}")
            continue
        yield (
            origin,
            {key: _value(cell, fields.get(key, key)) for key, cell in zip(header, cells, strict=True)},
        )


def _header(lines: Iterator[list[str]], name: str) -> list[str]:
    try:
        header = next(lines, None)
    except csv.Error as error:
        raise UserError(f"{name}: not valid CSV in its header: {error}") from None
    if header is None:
        raise UserError(f"{name}: is empty; a header of column names is required")
    twice = next((key for key in header if header.count(key) > 1), None)
    if twice is not None:
        raise UserError(f"{name}: the header names the column {twice!r} twice")
    return header


def _value(cell: str, field: str) -> Any:
    """A cell as its field needs it; what does not fit stays text, for the field's own check to refuse."""
    if cell == "":
        return None
    if field in _FLAGS:
        return _TRUTH.get(cell.strip().lower(), cell)
    if field in _NUMBERS:
        try:
            return float(cell)
        except ValueError:
            return cell
    return cell
