"""PartiPrompts (arXiv 2206.10789): a table with tabs, PartiPrompts.tsv, grouped by category and challenge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmalign.evaluation.prompts._rows import (
    Asked,
    check_path,
    different,
    head_of,
    place_of,
    prompt_text,
    text_of,
)
from mmalign.types import UserError

_COLUMNS = ("Prompt", "Category", "Challenge")


@dataclass(frozen=True)
class Parti:
    """A file whose first line names the columns Prompt, Category and Challenge, in any order; others, such as
    Note, are left alone. Quotation marks are part of a prompt, as in the published file."""

    path: str  # the benchmark's file of tab-separated columns

    def __post_init__(self) -> None:
        check_path(self.path)

    @staticmethod
    def fits(path: Path) -> bool:
        """True for a file whose first line has the three columns."""
        return set(_COLUMNS) <= set(head_of(path).split("\n")[0].rstrip("\r").split("\t"))

    def read(self) -> list[Asked]:
        """Every different prompt with its category and challenge."""
        place = place_of(self.path)
        first, *lines = text_of(place).split("\n")
        columns = first.rstrip("\r").split("\t")
        missing = [name for name in _COLUMNS if name not in columns]
        if missing:
            raise UserError(
                f"{place} row 1: must name the column {missing[0]}, tabs between, got {first!r:.80}"
            )
        rows = []
        for number, line in enumerate(lines, 2):
            if line.strip():
                rows.append(self._row(columns, line.rstrip("\r").split("\t"), number, place))
        return different(rows, place)

    def _row(self, columns: list[str], cells: list[str], number: int, place: Path) -> Asked:
        where = f"{place} row {number}"
        needed = max(columns.index(name) for name in _COLUMNS) + 1
        if not needed <= len(cells) <= len(columns):
            raise UserError(f"{where}: must have {len(columns)} cells, tabs between, got {len(cells)}")
        text, category, challenge = (cells[columns.index(name)] for name in _COLUMNS)
        groups = {"category": (category.strip(),), "challenge": (challenge.strip(),)}
        groups = {kind: listed for kind, listed in groups.items() if listed[0]}
        return Asked(f"parti-{number:04d}", prompt_text(text, where, "Prompt"), groups)
