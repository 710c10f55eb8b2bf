"""Rows of Arrow tables as plain values: pictures stay bytes, nothing is decoded while reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmalign.data._sources import Row


def table_rows(batches: Iterable[Any], name: str, split: str | None) -> Iterator[Row]:
    """Rows of Arrow record batches or tables, numbered from 1; `split` fills a split column that is not
    there."""
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{name} row {number}", row if split is None else with_split(row, split)


def with_split(row: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """The row with its split, unless it already names one."""
    return row if row.get("split") is not None else {**row, "split": split}
