"""What do the objectives do to the built-in model of pictures? One table with controls, on held-out pictures.

Every run is a shipped config of configs/objectives/vlm: the same pairs, batch, steps and LoRA, with the
learning rate that did best on validation scenes (--sweep). A finished run is one line of
results/shapes_vlm.jsonl and is not run again; results/shapes_vlm.md is written anew from these lines.

    python scripts/bench/shapes_vlm.py            # 200 held-out pictures, up to three seeds: about an hour
    python scripts/bench/shapes_vlm.py --quick    # 24 pictures, 12 steps, first three runs; prints only
    python scripts/bench/shapes_vlm.py --sweep    # 64 validation scenes at three learning rates
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from _vlm_runs import ARMS, ROOT, Arm, Cell, figures, open_for_asking, trained
from _vlm_table import page, selection, table

from mmalign.shapes.sights import Split
from mmalign.training.record import versions

RESULTS = Path(__file__).parent / "results"
RATES = (2.0e-4, 5.0e-4, 1.0e-3)
PICTURES: dict[Split, int] = {"heldout": 200, "validation": 64}
QUICK_PICTURES, QUICK_STEPS, QUICK_ARMS = 24, 12, 3


class Bench:
    """The finished runs of one file, and what is needed for more."""

    def __init__(self, file: Path, folder: Path, count: int | None = None, steps: int | None = None) -> None:
        """`count` and `steps` stand in for the usual numbers of pictures and steps."""
        self.file, self.folder, self.count, self.steps = file, folder, count, steps
        folder.mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        self.cells: list[Cell] = [json.loads(line) for line in lines]

    def found(self, split: Split, name: str, seed: int, lr: float | None = None) -> Cell | None:
        """The finished run of that name, if there is one."""
        for cell in self.cells:
            if (cell["split"], cell["run"], cell["seed"]) == (split, name, seed) and lr in (None, cell["lr"]):
                return cell
        return None

    def add(self, arm: Arm, split: Split, seed: int, lr: float | None) -> None:
        """Train one run and score it, unless it is there."""
        if self.found(split, arm.name, seed, lr if split == "validation" else None):
            return
        count = self.count or PICTURES[split]
        cell, folder = trained(arm, seed, lr, self.steps, self.folder / split)
        run = open_for_asking(folder)
        if not self.found(split, arm.base, 0):
            told = figures(run, True, split, count, arm.several)
            self._write({"run": arm.base, "seed": 0, "split": split, "lr": None} | told)
        self._write(cell | {"split": split} | figures(run, False, split, count, arm.several))

    def rate(self, arm: Arm) -> float | None:
        """The learning rate with the best validation score, the lower of equals; None: the config's own."""
        tried = [c for c in self.cells if (c["split"], c["run"]) == ("validation", arm.rate_of or arm.name)]
        best = sorted(tried, key=lambda cell: (-validation_score(cell), cell["lr"]))
        return float(best[0]["lr"]) if best else None

    def _write(self, cell: Cell) -> None:
        self.cells.append(cell)
        with self.file.open("a") as out:
            out.write(json.dumps(cell) + "\n")


def validation_score(cell: Cell) -> float:
    """What a rate is chosen by: the mean of the caption score and of right answers on presence; about one
    picture among several, where that was asked."""
    among = "several " if "several presence" in cell else ""
    return statistics.fmean(statistics.fmean(cell[among + key]) for key in ("caption score", "presence"))


def order(arms: Sequence[Arm]) -> Iterator[tuple[Arm, int]]:
    """First seeds first, so that a part of the table is the most telling part."""
    for seed in range(3):
        for arm in arms:
            if seed < arm.seeds:
                yield arm, seed


def quick(arms: Sequence[Arm]) -> None:
    """A few short runs in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "cells.jsonl", Path(folder), QUICK_PICTURES, QUICK_STEPS)
        for arm in arms:
            bench.add(arm, "heldout", 0, None)
    print(f"quick: {QUICK_PICTURES} pictures, {QUICK_STEPS} steps, one seed; no figure of it counts\n")
    print(table(bench.cells, arms))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few pictures and steps; nothing is kept")
    parser.add_argument("--sweep", action="store_true", help="choose learning rates on validation scenes")
    parser.add_argument("--page", action="store_true", help="only write the page from the finished runs")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--only", nargs="*", choices=[arm.name for arm in ARMS], help="these runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    arms = [arm for arm in ARMS if options.only is None or arm.name in options.only]
    if options.quick:
        quick(arms[:QUICK_ARMS])
        return
    bench = Bench(RESULTS / "shapes_vlm.jsonl", ROOT / "runs" / "shapes_vlm")
    if options.sweep:
        for rate in options.rates:
            for arm in arms:
                if arm.rate_of is None:
                    bench.add(arm, "validation", 0, rate)
                    print(selection(bench.cells), flush=True)
    elif not options.page:
        for arm, seed in order(arms):
            bench.add(arm, "heldout", seed, bench.rate(arm))
            print(table(bench.cells, ARMS), flush=True)
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    (RESULTS / "shapes_vlm.md").write_text(page(bench.cells, ARMS, used))


if __name__ == "__main__":
    main()
