"""GenEval (arXiv 2310.11513): evaluation_metadata.jsonl, a tag, what to include and a prompt per line."""

from __future__ import annotations

import json
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

_FIELDS = ("tag", "include", "prompt")


@dataclass(frozen=True)
class Geneval:
    """Prompts grouped by tag (single_object, counting, ...). The benchmark's own score needs its detector;
    here its prompts are answered, and judged by the judges of the config."""

    path: str  # the benchmark's file, lines of JSON

    def __post_init__(self) -> None:
        check_path(self.path)

    @staticmethod
    def fits(path: Path) -> bool:
        """True for a file whose first line is a JSON object with the three fields."""
        try:
            row = json.loads(head_of(path).split("\n")[0])
        except ValueError:
            return False
        return isinstance(row, dict) and set(_FIELDS) <= row.keys()

    def read(self) -> list[Asked]:
        """Every different prompt with its tag."""
        place = place_of(self.path)
        rows = []
        for number, line in enumerate(text_of(place).split("\n"), 1):
            if line.strip():
                rows.append(self._row(line, number, f"{place} row {number}"))
        return different(rows, place)

    def _row(self, line: str, number: int, where: str) -> Asked:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg})") from error
        missing = [name for name in _FIELDS if not isinstance(row, dict) or name not in row]
        if missing:
            raise UserError(f"{where}: must be an object with {', '.join(_FIELDS)}; {missing[0]} is missing")
        if not isinstance(row["include"], list):
            raise UserError(f"{where}: include must be a list of objects, got {row['include']!r:.60}")
        tag = prompt_text(row["tag"], where, "tag")
        return Asked(f"geneval-{number:04d}", prompt_text(row["prompt"], where, "prompt"), {"tag": (tag,)})
