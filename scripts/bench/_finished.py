"""What the benchmarks of objectives in the built-in world share: options, finished runs and their order."""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from mmalign.training.record import versions

RESULTS = Path(__file__).parent / "results"
RATES = (2.0e-4, 5.0e-4, 1.0e-3)
Cell = dict[str, Any]


class Planned(Protocol):
    """A row of a table that is to be: its name, and with how many seeds it is run."""

    @property
    def name(self) -> str: ...

    @property
    def seeds(self) -> int: ...


P = TypeVar("P", bound=Planned)


class Finished:
    """The finished runs of one file."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.file, self.folder = file, folder
        folder.mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        self.cells: list[Cell] = [json.loads(line) for line in lines]

    def found(self, split: str | None, name: str, seed: int, lr: float | None = None) -> Cell | None:
        """The finished run of that name, if there is one; None stands for any split, and for any rate."""
        for cell in self.cells:
            known = (cell["run"], cell["seed"]) == (name, seed) and split in (None, cell["split"])
            if known and lr in (None, cell["lr"]):
                return cell
        return None

    def write(self, cell: Cell) -> None:
        """One more."""
        self.cells.append(cell)
        with self.file.open("a") as out:
            out.write(json.dumps(cell) + "\n")


def order(arms: Sequence[P]) -> Iterator[tuple[P, int]]:
    """First seeds first, so that a part of the table is the most telling part."""
    for seed in range(3):
        for arm in arms:
            if seed < arm.seeds:
                yield arm, seed


def options(told: str, arms: Iterable[Planned]) -> argparse.Namespace:
    """What the command line says; torch is held to one thread."""
    parser = argparse.ArgumentParser(description=told.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few prompts and steps; nothing is kept")
    parser.add_argument("--sweep", action="store_true", help="choose learning rates on validation scenes")
    parser.add_argument("--page", action="store_true", help="only write the page from the finished runs")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--only", nargs="*", choices=[arm.name for arm in arms], help="these runs")
    torch.set_num_threads(1)
    return parser.parse_args()


def used() -> str:
    """The versions that a page names."""
    return ", ".join(f"{name} {version}" for name, version in versions().items())
