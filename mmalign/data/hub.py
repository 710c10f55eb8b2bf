"""Datasets of the `datasets` library: a saved folder, a folder of data files, or a name on the Hub.

A path that exists is never treated as a name, and a text that looks like a path is never looked up on the
network. Scripts inside a dataset are not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign._relative import started_from
from mmalign.data._arrow import table_rows
from mmalign.data._sources import Row, SourceOptions
from mmalign.types import UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class Hub(SourceOptions):
    """Rows of the dataset `path` (folder or "owner/name"), its configuration `name` and `revision`.

    `split` is required if the dataset has several. Pictures are read as stored, not decoded on the way.
    """

    path: str  # folder or "owner/name"
    name: str | None = None  # configuration of the dataset, where it has several
    revision: str | None = None  # branch, tag or commit; null: the newest

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path.strip():
            raise ValueError("path: must not be empty")

    @property
    def folder(self) -> str:
        """`root`, or the folder of a local dataset."""
        path = Path(self.path).expanduser()
        return self.root or (str(path) if path.is_dir() else ".")

    @property
    def title(self) -> str:
        """The path as the config gives it."""
        return repr(self.path)

    def records(self) -> Iterator[Row]:
        """Every row of the split with its origin."""
        data, split = self._split(self._open())
        origin = f"{Path(self.path).name}[{split}]" if split else Path(self.path).name
        batches = data.with_format("arrow").iter(batch_size=256)
        yield from table_rows(batches, origin, split)

    def _open(self) -> Any:
        """The dataset, or its splits by name."""
        import datasets

        path = Path(self.path).expanduser()
        try:
            if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(path))
            if path.is_dir():
                return datasets.load_dataset(str(path), self.name)
            if path.exists():
                raise UserError(f"data.path {self.path!r} is a file; use source: jsonl or source: parquet")
            if not _NAME.fullmatch(self.path):
                raise UserError(f"data.path {self.path!r}: no such folder{started_from(self.path)}")
            return datasets.load_dataset(self.path, self.name, revision=self.revision)
        except UserError:
            raise
        except Exception as error:  # the library raises many kinds; all of them mean that it has no data
            cause = error.__cause__ or error
            reason = (str(cause) or type(cause).__name__).splitlines()[0]
            raise UserError(f"data.path {self.path!r}: cannot be loaded: {reason}") from None

    def _split(self, data: Any) -> tuple[Any, str | None]:
        import datasets

        if not isinstance(data, datasets.DatasetDict):
            own = str(data.split) if data.split is not None else None
            if self.split is not None and own is not None and own != self.split:
                raise UserError(f"data.split {self.split!r}: the folder holds the split {own!r}")
            return data, own
        names = sorted(data)
        if self.split is None and len(names) > 1:
            raise UserError(f"data.path {self.path!r} has several splits; set data.split: {', '.join(names)}")
        chosen = self.split or names[0]
        if chosen not in data:
            raise UserError(f"data.split {chosen!r}: no such split; there are {', '.join(names)}")
        return data[chosen], chosen
