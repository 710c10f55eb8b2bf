"""The HPSv2 benchmark (arXiv 2306.09341): one JSON list of prompts for every style, anime.json and so on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmalign.evaluation.prompts._rows import (
    Asked,
    check_path,
    different,
    head_of,
    json_of,
    place_of,
    prompt_text,
)
from mmalign.types import UserError

STYLES = ("anime", "concept-art", "paintings", "photo")
"""The benchmark's own styles."""


@dataclass(frozen=True)
class Hpsv2:
    """The benchmark's folder, of which the four styles are read, or the list of one style; the style is the
    file's name."""

    path: str  # the benchmark's folder, or the file of one style

    def __post_init__(self) -> None:
        check_path(self.path)

    @staticmethod
    def fits(path: Path) -> bool:
        """True for a JSON list that begins with a text, or a folder with such a file for every style."""
        if path.is_dir():
            return all((path / f"{style}.json").is_file() for style in STYLES)
        head = head_of(path)
        return head[:1] == "[" and head[1:].lstrip()[:1] == '"'

    def read(self) -> list[Asked]:
        """Every different prompt with its style, style by style."""
        place = place_of(self.path)
        files = [place] if place.is_file() else [place / f"{style}.json" for style in STYLES]
        rows = []
        for file in files:
            if not file.is_file():
                raise UserError(f"{place}: {file.name} is missing; the benchmark has {', '.join(STYLES)}")
            listed = json_of(file)
            if not isinstance(listed, list):
                raise UserError(f"{file}: must hold a list of prompts, got {type(listed).__name__}")
            for number, text in enumerate(listed, 1):
                words = prompt_text(text, f"{file} row {number}", "the prompt")
                rows.append(Asked(f"{file.stem}-{number:04d}", words, {"style": (file.stem,)}))
        return different(rows, place)
