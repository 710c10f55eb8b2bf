"""The project's own rows: chosen and rejected, a completion, responses with scores, or a prompt alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._records import CANONICAL, MARKS
from mmalign.data._turns import Reader


@dataclass(frozen=True)
class Canonical(Format):
    """Rows that need no conversion."""

    columns = CANONICAL

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The answers that the row gives, or its prompt if there are none."""
        return tuple(sorted(MARKS & row.keys())) or (("prompt",) if row.get("prompt") is not None else ())

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The row itself."""
        return Converted(row)
