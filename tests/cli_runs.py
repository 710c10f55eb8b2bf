"""Calls of the command line inside the test process, and what must hold after every refusal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from mmalign.cli import main
from mmalign.types import Example, Message, Part, PreferenceSample

if TYPE_CHECKING:
    from training.tiny_runs import Bench

PREFIX = "mmalign: "
SHORT = {"generation": {"max_new_tokens": 8}}
FEW = {"generation": {"steps": 3}}
# Runs that the tests of finished runs share: name -> (kind, sections), steps large enough to be seen
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("text", {"model": SHORT, "data": {"heldout": 6}}),
    "text-lora": ("text", {"model": SHORT, "lora": {"rank": 4, "alpha": 16}, "train": {"lr": 1e-2}}),
    "image": ("image", {"model": FEW, "data": {"heldout": 3}, "train": {"lr": 1e-2}}),
    "image-lora": ("image", {"model": FEW, "lora": {"rank": 4, "alpha": 32}, "train": {"lr": 3e-2}}),
}


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


def refused(capsys: pytest.CaptureFixture[str], work: Path, words: tuple[str, ...], *argv: str) -> None:
    """The call is refused with these words and leaves the working folder as it was."""
    before = listing(work)
    assert_refused(call(capsys, *argv), words)
    assert listing(work) == before


def train_all(bench: Bench, folder: Path) -> Path:
    """Every run of RUNS in a folder of its name, trained through the command line, beside its config."""
    for name, (kind, sections) in RUNS.items():
        tree = bench.tree(kind, "", **sections)
        tree |= {"output": str(folder / name), "cache": str(folder / "cache")}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        assert main(["train", str(folder / f"{name}.yaml")]) == 0
    return folder


def write_config(bench: Bench, kind: str, **sections: Any) -> None:
    """config.yaml of a sound run in the working folder, with changes; it writes into ./out and ./cache."""
    tree = bench.tree(kind, "", **sections) | {"output": "out", "cache": "cache"}
    Path("config.yaml").write_text(yaml.safe_dump(tree))


@dataclass(frozen=True)
class Arrays:
    """A source of a user's own, cli_runs:Arrays: pictures as arrays, the last one not sound."""

    fault: str

    def samples(self) -> Iterator[PreferenceSample]:
        """Two pairs."""
        good = np.full((8, 8, 3), 0.5)
        bad = {"nan": good * np.nan, "empty": np.zeros((0, 8, 3)), "above 1": good * 4}[self.fault]
        prompt = (Message("text", (Part("text", "cat"),)),)
        for number, array in enumerate((good * 0.5, bad)):
            examples = {
                role: (Example(prompt, (Part("image", data),)),)
                for role, data in (("chosen", good), ("rejected", array))
            }
            yield PreferenceSample(f"s{number}", examples, origin=f"arrays row {number + 1}")


@dataclass(frozen=True)
class Letters:
    """A judge of a user's own, cli_runs:Letters: the share of letters in a text."""

    scale: float = 1.0

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """Scores "score" and "length"."""
        text = str(response.data)
        share = sum(c.isascii() and c.isalpha() for c in text) / max(1, len(text))
        return {"score": self.scale * share, "length": float(len(text))}
