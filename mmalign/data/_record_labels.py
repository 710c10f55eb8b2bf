"""Labels of a whole row: margin, tie, group, user, spans of text, segments of clips, masks of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmalign.data._turns import Reader
from mmalign.types import Example

Examples = Mapping[str, tuple[Example, ...]]


def labels_of(row: Mapping[str, Any], examples: Examples, reader: Reader) -> dict[str, Any]:
    """Labels of the whole sample, of those named above that the row carries. Raises UserError naming the row,
    the field and the rule."""
    labels: dict[str, Any] = {}
    if row.get("margin") is not None:
        labels["margin"] = reader.number(row["margin"], "margin")
    if row.get("tie") is not None:
        labels["tie"] = flag(row["tie"], "tie", reader)
    for name in ("group", "user"):
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise reader.fail(name, f"must be a text or a whole number, got {value!r}")
        labels[name] = value
    if row.get("spans") is not None:
        labels["spans"] = row["spans"]
        _check_spans(row["spans"], examples, reader)
    if row.get("segments") is not None and "rejected" in examples:
        labels["segments"] = _segments(row["segments"], reader)
    if row.get("mask") is not None:
        labels["mask"] = _mask(row["mask"], reader)
    return labels


def flag(value: Any, field: str, reader: Reader) -> float:
    """true/false or 1/0 as 1.0/0.0."""
    if isinstance(value, (bool, int)) and value in (0, 1):
        return float(value)
    raise reader.fail(field, f"must be true or false, got {value!r}")


def _check_spans(spans: Any, examples: Examples, reader: Reader) -> None:
    """{role: [[start, end], ...]}: character ranges [start, end) inside the text of that role's response."""
    if not isinstance(spans, Mapping):
        raise reader.fail("spans", "must be {role: [[start, end], ...]}")
    for role, ranges in spans.items():
        if ranges is None:
            continue
        if role not in examples or role == "responses":
            raise reader.fail("spans", f"unknown role {role!r}; the row has {', '.join(examples)}")
        length = sum(len(part.data) for part in examples[role][0].response if part.kind == "text")
        for span in ranges if isinstance(ranges, (list, tuple)) else [ranges]:
            whole = isinstance(span, (list, tuple)) and len(span) == 2 and all(type(x) is int for x in span)
            if not whole or not 0 <= span[0] < span[1] <= length:
                rule = f"must be [start, end) inside the {length} characters of the response, got {span!r}"
                raise reader.fail(f"spans.{role}", rule)


def _segments(value: Any, reader: Reader) -> list[int]:
    """[S] of 1, -1 and 0: in that part of the clips the chosen one is better, the rejected one, neither."""
    known = isinstance(value, (list, tuple)) and all(
        isinstance(one, (int, float, np.integer)) and not isinstance(one, bool) and one in (-1, 0, 1)
        for one in value
    )
    if not known or not value:
        raise reader.fail("segments", f"must be a list of 1, -1 and 0, one per segment, got {value!r:.100}")
    return [int(one) for one in value]


def _mask(value: Any, reader: Reader) -> Any:
    """A grey picture, read when it is needed, or lines of numbers of 0 or more."""
    if not isinstance(value, (list, tuple)):
        return reader.media(value, "image", "mask").data
    try:
        read = np.array(value, dtype=np.float32)
    except (TypeError, ValueError):
        read = np.zeros(0, np.float32)
    if read.ndim != 2 or not read.size:
        raise reader.fail("mask", "must be a picture, or lines of equally many numbers")
    if not np.isfinite(read).all() or (read < 0).any() or not read.any():
        raise reader.fail("mask", "must hold numbers of 0 or more, and not only 0")
    return read
