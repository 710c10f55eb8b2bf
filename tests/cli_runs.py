"""Calls of the command line inside the test process, and what must hold after every refusal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mmalign.cli import main

PREFIX = "mmalign: "


@dataclass(frozen=True)
class Call:
    """What one call of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one error line; the last line of stderr and the only one of its kind."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        named = [line for line in lines if line.startswith(PREFIX)]
        assert len(named) == 1, self.err
        assert lines[-1] == named[0], self.err
        assert "Traceback" not in self.err
        return named[0]


def call(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> Call:
    """Run `mmalign argv...`; what was printed before is dropped."""
    capsys.readouterr()
    code = main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    return Call(code, out, err)


def listing(folder: Path) -> list[str]:
    """Every path under a folder with its size, links not followed."""
    return sorted(f"{p.relative_to(folder)} {p.lstat().st_size}" for p in folder.rglob("*"))


def assert_refused(called: Call, words: tuple[str, ...]) -> None:
    """Exit code 2 and one line that holds every word."""
    assert called.code == 2, called.err
    line = called.refusal
    for word in words:
        assert word in line, line
    assert len(line) < 700, line
