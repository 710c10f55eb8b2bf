"""Formats of rows: by which columns a row is recognised, and how it becomes a canonical one.

A format is one file in `formats/` with one public dataclass; its name is the file's. Any source can hold rows
of any format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmalign._names import KINDS, class_of, names
from mmalign.data._pairing import PairRule
from mmalign.data._records import CANONICAL, Record, read_record
from mmalign.data._turns import Reader
from mmalign.types import UserError

_MEDIA = frozenset(
    {"image", "images", "image_path", "img_path", "retrieved_image", "frame", "file_name"}
    | {"video", "videos", "video_path", "rejected_images", "rejected_videos"}
)
"""Columns of other formats that name media; there an empty text is null: tables write it so."""


@dataclass(frozen=True)
class Converted:
    """A canonical row; `names` gives the columns that its fields came from, for messages.

    `group`: the row is one scored response of this list, the others are in other rows. `pairs`: how a list
    becomes pairs unless the source says otherwise. `unrated`: answers of the row that take part in
    nothing, since a rating of theirs is no number.
    """

    row: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    pairs: PairRule | None = None
    unrated: int = 0


@dataclass(frozen=True)
class LeftOut:
    """A sound row that holds no preference, such as one that nobody has judged; counted by its reason.
    `unrated` as of `Converted`."""

    reason: str
    unrated: int = 0


class Format(ABC):
    """One form of rows. Subclasses are frozen dataclasses without fields."""

    @property
    @abstractmethod
    def columns(self) -> frozenset[str]:
        """The columns that `convert` reads."""

    @abstractmethod
    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns by which the row is seen to be of this format; empty if it is not."""

    @abstractmethod
    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted | LeftOut:
        """The canonical form of a row. Raises UserError naming the row's own column."""


@dataclass(frozen=True)
class ReadRow:
    """What became of a row: a record, or the reason why it is left out; and how it was recognised."""

    result: Record | LeftOut
    format: str
    signs: tuple[str, ...]
    group: str | None = None
    pairs: PairRule | None = None
    unrated: int = 0


def known_formats(name: str) -> dict[str, Format]:
    """The format of that name, or every one for "auto"; raises ValueError with the names there are."""
    kind = KINDS["format"]
    known = names(kind)
    if name != "auto" and name not in known:
        raise ValueError(f"format: no format is called {name!r}; known: auto, {', '.join(known)}")
    return {one: class_of(kind, one)() for one in (known if name == "auto" else [name])}


def columns_of(formats: Mapping[str, Format]) -> frozenset[str]:
    """Every column that some of the formats read; what `data.columns` may map to."""
    return CANONICAL.union(*(one.columns for one in formats.values()))


def read_row(
    row: Mapping[str, Any], origin: str, number: int, root: str, formats: Mapping[str, Format]
) -> ReadRow:
    """Check one row of one of the formats; with a single format nothing is recognised but taken as given.

    Raises UserError naming the origin, the column and the rule; for a row of no format or of several, the
    columns and the formats.
    """
    name, signs = (next(iter(formats)), ()) if len(formats) == 1 else recognise(row, origin, formats)
    if name != "canonical":
        row = {key: None if key in _MEDIA and _is_blank(value) else value for key, value in row.items()}
    made = formats[name].convert(row, Reader(origin, root))
    if isinstance(made, LeftOut):
        return ReadRow(made, name, signs, unrated=made.unrated)
    record = read_record(made.row, origin, number, root, made.names)
    dropped = [str(key) for key in row if key not in formats[name].columns and key not in made.row]
    whole = Record(record.sample, (*record.unused, *dropped))
    return ReadRow(whole, name, signs, made.group, made.pairs, made.unrated)


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def recognise(
    row: Mapping[str, Any], origin: str, formats: Mapping[str, Format]
) -> tuple[str, tuple[str, ...]]:
    """The only format that a row shows signs of, and those signs. The canonical one gives way to others:
    their rows may hold some of its columns beside their own. So does one whose signs another shows too,
    among more of them."""
    found = {name: signs for name, one in formats.items() if (signs := one.signs(row))}
    if len(found) > 1:
        found.pop("canonical", None)
        sets = [set(signs) for signs in found.values()]
        found = {name: signs for name, signs in found.items() if not any(set(signs) < one for one in sets)}
    if not found:
        columns = ", ".join(sorted(str(key) for key in row)) or "none"
        raise UserError(
            f"{origin}: no chosen and rejected, completion or responses, nor the columns of another format; "
            f"its columns are {columns} (data.columns maps fields to columns; formats: {', '.join(formats)})"
        )
    if len(found) > 1:
        seen = " and ".join(f"{name} ({', '.join(signs)})" for name, signs in found.items())
        raise UserError(f"{origin}: could be {seen}; say which with data.format")
    ((name, signs),) = found.items()
    return name, signs
