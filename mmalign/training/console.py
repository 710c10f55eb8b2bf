"""What a run says: plain lines from one process, with warnings kept as notes for the record."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Self

from tqdm import tqdm

from mmalign.training.world import World

WARNING = "warning: "
"""A note that begins so is one to act on; reports put it among their findings."""


class Console:
    """Prints from the main process only, above a progress bar if there is one."""

    def __init__(self, world: World, progress: bool, quiet: bool = False) -> None:
        self._speaks = world.is_main and not quiet
        self.progress = progress and self._speaks
        self._notes: list[str] = []

    def say(self, line: str) -> None:
        """Print a line."""
        if self._speaks:
            tqdm.write(line, file=sys.stderr)

    def warn(self, line: str) -> None:
        """Print a line as a warning and keep it so for run.json."""
        self.note(f"{WARNING}{line}")

    def note(self, line: str) -> None:
        """Print a line and keep it for run.json."""
        self.say(line)
        self._notes.append(line)

    def take_notes(self) -> list[str]:
        """Notes and warnings since the last call."""
        notes, self._notes = self._notes, []
        return notes


class Progress:
    """A bar with the steps, the time left, samples per second and the newest loss. As a context it ends with
    its line, so that what is printed of an error stands on one of its own."""

    def __init__(self, steps: int, done: int, batch: int, shown: bool) -> None:
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=not shown, dynamic_ncols=True)
        self._batch, self._seen, self._began = batch, 0, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def advance(self) -> None:
        """One step further."""
        self._seen += self._batch
        speed = self._seen / (time.monotonic() - self._began)
        self._bar.set_postfix_str(f"{speed:.1f} samples/s", refresh=False)
        self._bar.update()

    def describe(self, values: Mapping[str, float]) -> None:
        """Show loss and accuracy of the newest report."""
        shown = [f"{name} {values[name]:.4g}" for name in ("loss", "implicit_acc") if name in values]
        self._bar.set_description_str(" ".join(shown), refresh=False)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()
