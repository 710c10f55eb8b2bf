"""Plain text: a prompt in every line; empty lines are left out, there are no groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmalign.evaluation.prompts._rows import Asked, check_path, different, place_of, text_of
from mmalign.types import UserError


@dataclass(frozen=True)
class Lines:
    """One prompt per line, in UTF-8."""

    path: str  # file with a prompt in every line

    def __post_init__(self) -> None:
        check_path(self.path)

    @staticmethod
    def fits(path: Path) -> bool:
        """True for a file that ends in .txt."""
        return path.is_file() and path.suffix == ".txt"

    def read(self) -> list[Asked]:
        """Every different line."""
        place = place_of(self.path)
        if place.is_dir():
            raise UserError(f"{place}: is a folder; name a text file with a prompt per line")
        lines = enumerate(text_of(place).split("\n"), 1)
        return different(
            (Asked(f"line-{n:04d}", line.strip(), {}) for n, line in lines if line.strip()), place
        )
