"""Do objectives on pairs about time make a model of clips see time? One table, with controls, held-out clips.

The base is the built-in model of clips with a habit in questions on order, taught in a minute. Every run is a
shipped config of configs/objectives/video_lm on equally many pairs about the same kinds of questions. Models
are asked with the frames in order, shuffled, reversed, and with one frame four times. A finished run is one
line of results/shapes_video.jsonl and is not run again; results/shapes_video.md is written anew from these.

    python scripts/bench/shapes_video.py            # 200 held-out clips, up to three seeds: about an hour
    python scripts/bench/shapes_video.py --quick    # 32 clips, few steps, three runs; prints only
    python scripts/bench/shapes_video.py --sweep    # 64 validation clips at three learning rates
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from _video_runs import (
    ARMS,
    BASE,
    BUILT_IN,
    ROOT,
    Arm,
    Cell,
    asked_of_run,
    asked_of_shipped,
    digest_of,
    folder_of,
    made_base,
    made_pairs,
    trained,
)
from _video_table import brief, page, selection, tables
from _video_world import Topic

from mmalign.shapes.sights import Split
from mmalign.training.record import versions

RESULTS = Path(__file__).parent / "results"
RATES = (2.0e-4, 5.0e-4, 1.0e-3)
CLIPS: dict[Split, int] = {"heldout": 200, "validation": 64}
SWEPT = ("dpo", "mdpo, reversed", "tpo", "sft")
TRAINING = ("run", "seed", "steps", "batch", "lr", "seconds", "cpu_seconds")
"""What a row says of the training, whatever is asked of its model."""
QUICK_CLIPS, QUICK_STEPS, QUICK_ARMS, QUICK_PAIRS = 32, 20, 3, 48


class Bench:
    """The finished runs of one file, and what is needed for more."""

    def __init__(self, file: Path, folder: Path, quick: bool = False) -> None:
        """Makes base and pairs in the folder where they are missing; `quick`: few of everything."""
        self.file, self.folder, self.quick = file, folder, quick
        self.cells: list[Cell] = []
        if file.exists():
            self.cells = [json.loads(line) for line in file.read_text().splitlines()]
        base = made_base(folder, QUICK_STEPS if quick else None)
        self.base = digest_of(base)
        others = {cell["base"] for cell in self.cells} - {self.base}
        if others:
            raise SystemExit(
                f"{file} has runs on base {others.pop()}, {base} is {self.base}; begin a new file"
            )
        counts: dict[Topic, int] | None = {"relay": QUICK_PAIRS, "motion": QUICK_PAIRS} if quick else None
        for told in made_pairs(base, folder, counts=counts):
            self._write(told)

    def ask_built_in(self, split: Split) -> None:
        """Ask the model that the base was made of, unless that is done."""
        if not self.found(split, BUILT_IN, 0):
            asked = asked_of_shipped(split, CLIPS[split])
            self._write({"run": BUILT_IN, "split": split, "seed": 0, "lr": None} | asked)

    def found(self, split: Split | None, name: str, seed: int, lr: float | None = None) -> Cell | None:
        """The finished run of that name, if there is one, of this split or of any."""
        for cell in self.cells:
            known = (cell["run"], cell["seed"]) == (name, seed) and split in (None, cell["split"])
            if known and lr in (None, cell["lr"]):
                return cell
        return None

    def add(self, arm: Arm, split: Split, seed: int, lr: float) -> None:
        """Train one run and ask it, unless it is there."""
        if self.found(split, arm.name, seed, lr):
            return
        count = QUICK_CLIPS if self.quick else CLIPS[split]
        folder = folder_of(arm, seed, lr, self.folder)
        other = self.found(None, arm.name, seed, lr)
        if other is not None and folder.exists():
            cell = {name: other[name] for name in TRAINING}
        else:
            cell = trained(arm, seed, lr, QUICK_STEPS if self.quick else None, self.folder)
        if not self.found(split, BASE, 0):
            asked = asked_of_run(folder, True, split, count)
            self._write({"run": BASE, "split": split, "seed": 0, "lr": None} | asked)
        self._write(cell | {"split": split} | asked_of_run(folder, False, split, count))

    def _write(self, cell: Cell) -> None:
        self.cells.append(cell | {"base": self.base})
        with self.file.open("a") as out:
            out.write(json.dumps(self.cells[-1]) + "\n")


def order(arms: Sequence[Arm]) -> Iterator[tuple[Arm, int]]:
    """First seeds first, so that a part of the table is the most telling part."""
    for seed in range(3):
        for arm in arms:
            if seed < arm.seeds:
                yield arm, seed


def quick() -> None:
    """A few short runs in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "cells.jsonl", Path(folder), quick=True)
        for arm in ARMS[:QUICK_ARMS]:
            bench.add(arm, "heldout", 0, arm.lr)
    print(f"quick: {QUICK_CLIPS} clips, {QUICK_STEPS} steps, one seed; no figure of it counts\n")
    print(tables(bench.cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few clips and steps; nothing is kept")
    parser.add_argument("--sweep", action="store_true", help="choose learning rates on validation scenes")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--only", nargs="*", choices=[arm.name for arm in ARMS], help="these runs")
    parser.add_argument("--page", action="store_true", help="write the page of the runs there are")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        quick()
        return
    bench = Bench(RESULTS / "shapes_video.jsonl", ROOT / "runs" / "shapes_video")
    arms = [arm for arm in ARMS if arm.name in (options.only or [arm.name for arm in ARMS])]
    if options.sweep:
        for rate in options.rates:
            for arm in arms:
                if arm.name in (options.only or SWEPT):
                    bench.add(arm, "validation", 0, rate)
                    print(selection(bench.cells), flush=True)
    elif not options.page:
        bench.ask_built_in("heldout")
        for arm, seed in order(arms):
            bench.add(arm, "heldout", seed, arm.lr)
            print(brief(bench.cells, arm.name, seed), flush=True)
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    (RESULTS / "shapes_video.md").write_text(page(bench.cells, used))


if __name__ == "__main__":
    main()
