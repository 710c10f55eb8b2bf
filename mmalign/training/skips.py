"""skipped.jsonl: every row that a run left out, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mmalign.data._sources import Skipped
from mmalign.training._files import replace_bytes
from mmalign.training.console import Console
from mmalign.training.world import World


class SkipLog:
    """Rows left out before the first step stand at step 0, later ones at the step they were due in.

    Every process appends its own; like the metrics, the file is cut back to the step a run goes on from.
    """

    def __init__(self, folder: Path, world: World, console: Console) -> None:
        self._path = folder / "skipped.jsonl"
        self._world, self._console = world, console

    def open(self, before: Sequence[Skipped], step: int) -> None:
        """Begin the file with the rows left out beforehand, or cut it back to `step`."""
        if not self._world.is_main:
            return
        lines = [line for line in self._lines() if 0 < json.loads(line)["step"] <= step]
        lines = [json.dumps({"step": 0, **asdict(row)}) for row in before] + lines
        if lines or self._path.exists():
            replace_bytes(self._path, "".join(line + "\n" for line in lines).encode())

    def add(self, number: int, row: Skipped) -> None:
        """A row that failed while loading step `number` (from 0) although it passed its first check."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": number + 1, **asdict(row)}) + "\n")
        self._console.warn(f"step {number + 1}: row left out: {row.reason}")

    def late(self) -> int:
        """How many rows failed after their first check, on all processes so far."""
        return sum(json.loads(line)["step"] > 0 for line in self._lines())

    def _lines(self) -> list[str]:
        return self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
