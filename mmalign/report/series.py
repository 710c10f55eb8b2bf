"""Curves read from metrics.jsonl: by name, train and held-out apart, with what was not finite counted."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmalign.types import UserError

_HELDOUT = "heldout/"
END_SHARE = 0.1
"""What "at the end" of a training curve means: the mean over this share of its lines, one at least."""


@dataclass
class Series:
    """One metric over steps, in the order of the file. `broken` lists the steps of NaN and infinite values,
    which are not among `values`."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    broken: list[float] = field(default_factory=list)

    def add(self, step: float, value: float) -> None:
        """Append one value."""
        if math.isfinite(value):
            self.steps.append(step)
            self.values.append(value)
        else:
            self.broken.append(step)

    @property
    def first(self) -> float:
        """The first finite value."""
        return self.values[0]

    @property
    def last(self) -> float:
        """The last finite value."""
        return self.values[-1]

    @property
    def start(self) -> float:
        """Mean over the first lines of a noisy curve."""
        return statistics.fmean(self.values[: self._few])

    @property
    def end(self) -> float:
        """Mean over the last lines of a noisy curve."""
        return statistics.fmean(self.values[-self._few :])

    @property
    def _few(self) -> int:
        return max(1, int(len(self.values) * END_SHARE))


@dataclass(frozen=True)
class Metrics:
    """All curves of a run by name; held-out ones without their prefix."""

    train: Mapping[str, Series]
    heldout: Mapping[str, Series]

    @property
    def names(self) -> list[str]:
        """Names of both, in alphabetical order."""
        return sorted({*self.train, *self.heldout})

    def at_end(self, name: str) -> tuple[float, str] | None:
        """Value of a metric at the end, and "held-out" or "training": held-out where there is one."""
        if name in self.heldout and self.heldout[name].values:
            return self.heldout[name].last, "held-out"
        if name in self.train and self.train[name].values:
            return self.train[name].end, "training"
        return None


def read_metrics(path: Path) -> Metrics:
    """Read a metrics.jsonl; a missing file has no curves, a torn last line is left out.

    Raises UserError naming the row for any other line that is not one.
    """
    train: dict[str, Series] = {}
    heldout: dict[str, Series] = {}
    *lines, _torn = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for row, line in enumerate(lines, 1):
        step, values = _parse(path, row, line)
        for name, value in values.items():
            if value is not None:
                group = heldout if name.startswith(_HELDOUT) else train
                group.setdefault(name.removeprefix(_HELDOUT), Series()).add(step, value)
    return Metrics(train, heldout)


def _parse(path: Path, row: int, line: bytes) -> tuple[int, dict[str, float | None]]:
    try:
        tree = json.loads(line)
        step = int(tree.pop("step"))
        return step, {name: _number(value) for name, value in tree.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} row {row}: not a metrics line ({problem}); remove that row") from error


def _number(value: object) -> float | None:
    """A number, also where it is written as "nan" or "inf"; other words and null are no curve."""
    if isinstance(value, bool | int | float):
        return float(value)
    return float(value) if value in ("nan", "inf", "-inf") and isinstance(value, str) else None
