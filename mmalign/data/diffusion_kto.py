"""Pick-a-Pic as single liked and disliked pictures: the CSV file of Diffusion-KTO (arXiv 2404.04465)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmalign.data._formats import LeftOut
from mmalign.data._sources import Row
from mmalign.data.csv import Csv
from mmalign.types import UserError

_FILES = ("file_name", "file_path")
_KINDS = ("split", "label")
_LABELS = {"exclusive_win": True, "exclusive_lose": False}


@dataclass(frozen=True, kw_only=True)
class DiffusionKto(Csv):
    """Columns `file_name` (or `file_path`), `caption`, and `split` (or `label`): exclusive_win for a picture
    that won all its comparisons, exclusive_lose for one that lost all, intersections for one that did both.

    `intersections`: whether the last are liked ("positive", as in the published runs), disliked, or left out
    ("drop"). `root`: the folder of the pictures, where it is not that of the file. Rows have no other split.
    """

    # pictures that both won and lost: liked, as in the published runs, disliked, or left out
    intersections: Literal["positive", "negative", "drop"] = "positive"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.intersections not in ("positive", "negative", "drop"):
            raise ValueError(f"intersections: must be positive, negative or drop, got {self.intersections!r}")
        if self.split is not None:
            raise ValueError(f"split: the rows' split column holds their labels, got {self.split!r}")

    def records(self) -> Iterator[Row]:
        """Every row as a labelled completion."""
        for origin, row in super().records():
            yield origin, self._record(row, origin) if isinstance(row, Mapping) else row

    def _record(self, row: Mapping[str, Any], origin: str) -> Mapping[str, Any] | UserError | LeftOut:
        file = next((name for name in _FILES if name in row), None)
        kind = next((name for name in _KINDS if name in row), None)
        if file is None or kind is None or "caption" not in row:
            needed = "file_name (or file_path), caption and split (or label)"
            return UserError(f"{origin}: needs {needed}; its columns are {', '.join(row)}")
        empty = next((name for name in (file, "caption", kind) if row[name] is None), None)
        if empty is not None:
            return UserError(f"{origin}, field {empty!r}: is empty")
        label = _LABELS.get(row[kind])
        if row[kind] == "intersections":
            if self.intersections == "drop":
                return LeftOut("intersections: pictures that won and lost")
            label = self.intersections == "positive"
        if label is None:
            known = f"{', '.join(_LABELS)} or intersections"
            return UserError(f"{origin}, field {kind!r}: must be {known}, got {row[kind]!r}")
        rest = {key: value for key, value in row.items() if key not in (*_FILES, *_KINDS, "caption")}
        return {**rest, "prompt": row["caption"], "completion_image": row[file], "label": label}
