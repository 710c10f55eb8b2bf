"""What do the objectives do to the built-in model of pictures? One table with controls, on held-out pictures.

Every run is a shipped config of configs/objectives/vlm: the same pairs, batch, steps and LoRA, with the
learning rate that did best on validation scenes (--sweep). A finished run is one line of
results/shapes_vlm.jsonl and is not run again; results/shapes_vlm.md is written anew from these lines.

    python scripts/bench/shapes_vlm.py            # 200 held-out pictures, up to three seeds: about an hour
    python scripts/bench/shapes_vlm.py --quick    # 24 pictures, 12 steps, first three runs; prints only
    python scripts/bench/shapes_vlm.py --sweep    # 64 validation scenes at three learning rates
"""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from _finished import RESULTS, Cell, Finished, options, order, used
from _several import attention
from _vlm_runs import ARMS, ROOT, Arm, figures, open_for_asking, trained
from _vlm_table import page, selection, table

from mmalign.shapes.sights import Split

PICTURES: dict[Split, int] = {"heldout": 200, "validation": 64}
LOOKED = "several: attention"
QUICK_PICTURES, QUICK_STEPS, QUICK_ARMS = 24, 12, 3


class Bench(Finished):
    """The finished runs of one file, and what is needed for more."""

    def __init__(self, file: Path, folder: Path, count: int | None = None, steps: int | None = None) -> None:
        """`count` and `steps` stand in for the usual numbers of pictures and steps."""
        super().__init__(file, folder)
        self.count, self.steps = count, steps

    def add(self, arm: Arm, split: Split, seed: int, lr: float | None) -> None:
        """Train one run and score it, unless it is there."""
        if self.found(split, arm.name, seed, lr if split == "validation" else None):
            return
        count = self.count or PICTURES[split]
        cell, folder = trained(arm, seed, lr, self.steps, self.folder / split)
        run = open_for_asking(folder)
        if not self.found(split, arm.base, 0):
            told = figures(run, True, split, count, arm.several)
            self.write({"run": arm.base, "seed": 0, "split": split, "lr": None} | told)
        self.write(cell | {"split": split} | figures(run, False, split, count, arm.several))
        if arm.built == "any" and not self.found("training", LOOKED, 0):
            looked = attention(arm.start, self.folder / split)
            self.write({"run": LOOKED, "seed": 0, "split": "training", "lr": None, "by pictures": looked})

    def rate(self, arm: Arm) -> float | None:
        """The learning rate with the best validation score, the lower of equals; None: the config's own."""
        tried = [c for c in self.cells if (c["split"], c["run"]) == ("validation", arm.rate_of or arm.name)]
        best = sorted(tried, key=lambda cell: (-validation_score(cell), cell["lr"]))
        return float(best[0]["lr"]) if best else None


def validation_score(cell: Cell) -> float:
    """What a rate is chosen by: the mean of the caption score and of right answers on presence; about one
    picture among several, where that was asked."""
    among = "several " if "several presence" in cell else ""
    return statistics.fmean(statistics.fmean(cell[among + key]) for key in ("caption score", "presence"))


def quick(arms: Sequence[Arm]) -> None:
    """A few short runs in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "cells.jsonl", Path(folder), QUICK_PICTURES, QUICK_STEPS)
        for arm in arms:
            bench.add(arm, "heldout", 0, None)
    print(f"quick: {QUICK_PICTURES} pictures, {QUICK_STEPS} steps, one seed; no figure of it counts\n")
    print(table(bench.cells, arms))


def main() -> None:
    chosen = options(__doc__ or "", ARMS)
    arms = [arm for arm in ARMS if chosen.only is None or arm.name in chosen.only]
    if chosen.quick:
        quick(arms[:QUICK_ARMS])
        return
    bench = Bench(RESULTS / "shapes_vlm.jsonl", ROOT / "runs" / "shapes_vlm")
    if chosen.sweep:
        for rate in chosen.rates:
            for arm in arms:
                if arm.swept:
                    bench.add(arm, "validation", 0, rate)
                    print(selection(bench.cells), flush=True)
    elif not chosen.page:
        for arm, seed in order(arms):
            bench.add(arm, "heldout", seed, bench.rate(arm))
            print(table(bench.cells, ARMS), flush=True)
    (RESULTS / "shapes_vlm.md").write_text(page(bench.cells, ARMS, used()))


if __name__ == "__main__":
    main()
