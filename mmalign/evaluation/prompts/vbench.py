"""VBench (arXiv 2311.17982): VBench_full_info.json, or text files of prompts, one for every dimension."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.evaluation.prompts._rows import (
    Asked,
    check_path,
    different,
    head_of,
    json_of,
    place_of,
    prompt_text,
    text_of,
)
from mmalign.types import UserError


@dataclass(frozen=True)
class Vbench:
    """Prompts grouped by dimension. A list of objects with prompt_en and dimension (a list, or one name as in
    version 2), one text file with a prompt per line, or a folder of such files named after dimensions."""

    path: str  # the benchmark's list, a text file, or a folder of text files

    def __post_init__(self) -> None:
        check_path(self.path)

    @staticmethod
    def fits(path: Path) -> bool:
        """True for a JSON list of objects with prompt_en, or a folder of text files."""
        if path.is_dir():
            return any(path.glob("*.txt"))
        head = head_of(path)
        return head[:1] == "[" and head[1:].lstrip()[:1] == "{" and '"prompt_en"' in head

    def read(self) -> list[Asked]:
        """Every different prompt with all dimensions it stands for."""
        place = place_of(self.path)
        if place.is_file() and place.suffix == ".json":
            listed = json_of(place)
            if not isinstance(listed, list):
                raise UserError(f"{place}: must hold a list of objects, got {type(listed).__name__}")
            rows = [self._row(row, number, f"{place} row {number}") for number, row in enumerate(listed, 1)]
            return different(rows, place)
        files = [place] if place.is_file() else sorted(place.glob("*.txt"))
        return different((row for file in files for row in self._lines(file)), place)

    def _row(self, row: Any, number: int, where: str) -> Asked:
        if not isinstance(row, dict) or "prompt_en" not in row or "dimension" not in row:
            raise UserError(f"{where}: must be an object with prompt_en and dimension, got {row!r:.60}")
        stated = row["dimension"]
        listed = [stated] if isinstance(stated, str) else stated
        if not isinstance(listed, list) or not listed:
            raise UserError(f"{where}: dimension must be a name or a list of names, got {stated!r:.60}")
        names = tuple(prompt_text(name, where, "dimension") for name in listed)
        return Asked(
            f"vbench-{number:04d}", prompt_text(row["prompt_en"], where, "prompt_en"), {"dimension": names}
        )

    def _lines(self, file: Path) -> Iterator[Asked]:
        """A text file's lines; the one of all dimensions together names none."""
        groups = {} if file.stem.startswith("all_") else {"dimension": (file.stem,)}
        for number, line in enumerate(text_of(file).split("\n"), 1):
            if line.strip():
                yield Asked(f"{file.stem}-{number:04d}", line.strip(), groups)
