"""Parquet: one file, or a folder of files named after their split (`train-00000-of-00002.parquet`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmalign._relative import started_from
from mmalign.data._arrow import table_rows
from mmalign.data._sources import Row, SourceOptions
from mmalign.types import UserError

_BATCH = 256  # rows decoded at a time: pictures inside the file should not all be in memory twice


@dataclass(frozen=True, kw_only=True)
class Parquet(SourceOptions):
    """Rows of the parquet file `path`, or of all parquet files in that folder in the order of their names.

    In a folder, what stands before the first "-" of a file's name is the split of its rows, unless they have
    a split column. Pictures may be bytes, {"bytes", "path"} structs or names of files.
    """

    path: str  # parquet file, or a folder of them

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path.strip():
            raise ValueError("path: must not be empty")

    @property
    def folder(self) -> str:
        """`root`, or the folder of the data."""
        path = Path(self.path).expanduser()
        return self.root or str(path if path.is_dir() else path.parent)

    @property
    def title(self) -> str:
        """The path as the config gives it."""
        return repr(self.path)

    def records(self) -> Iterator[Row]:
        """Every row with its origin; a file that is damaged or no parquet file is a UserError."""
        path = Path(self.path).expanduser()
        if not path.exists():
            raise UserError(f"data.path {self.path!r}: no such file or folder{started_from(self.path)}")
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"data.path {self.path!r}: the folder holds no .parquet file")
        for file in files:
            split = file.stem.split("-")[0] if path.is_dir() else None
            yield from _rows(file, split)


def _rows(file: Path, split: str | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            yield from table_rows(table.iter_batches(batch_size=_BATCH), file.name, split)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file.name}: cannot be read as parquet: {reason}") from None
