"""Do objectives on pairs about time make a model of clips see time? One table, with controls, held-out clips.

The base is the built-in model of clips with a habit in questions on order, taught in a minute. Every run is a
shipped config of configs/objectives/video_lm on equally many pairs about the same kinds of questions. Models
are asked with the frames in order, shuffled, reversed, and with one frame four times. A finished run is one
line of results/shapes_video.jsonl and is not run again; results/shapes_video.md is written anew from these.

    python scripts/bench/shapes_video.py            # 200 held-out clips, up to three seeds: about an hour
    python scripts/bench/shapes_video.py --quick    # 32 clips, few steps, three runs; prints only
    python scripts/bench/shapes_video.py --sweep    # 64 validation clips at three learning rates
"""

import tempfile
from pathlib import Path

from _finished import RESULTS, Cell, Finished, options, order, used
from _video_runs import (
    ARMS,
    BASE,
    BUILT_IN,
    ROOT,
    Arm,
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

CLIPS: dict[Split, int] = {"heldout": 200, "validation": 64}
SWEPT = ("dpo", "mdpo, reversed", "tpo", "sft")
TRAINING = ("run", "seed", "steps", "batch", "lr", "seconds", "cpu_seconds")
"""What a row says of the training, whatever is asked of its model."""
QUICK_CLIPS, QUICK_STEPS, QUICK_ARMS, QUICK_PAIRS = 32, 20, 3, 48


class Bench(Finished):
    """The finished runs of one file, and what is needed for more."""

    def __init__(self, file: Path, folder: Path, quick: bool = False) -> None:
        """Makes base and pairs in the folder where they are missing; `quick`: few of everything."""
        super().__init__(file, folder)
        self.quick = quick
        base = made_base(folder, QUICK_STEPS if quick else None)
        self.base = digest_of(base)
        others = {cell["base"] for cell in self.cells} - {self.base}
        if others:
            raise SystemExit(
                f"{file} has runs on base {others.pop()}, {base} is {self.base}; begin a new file"
            )
        counts: dict[Topic, int] | None = {"relay": QUICK_PAIRS, "motion": QUICK_PAIRS} if quick else None
        for told in made_pairs(base, folder, counts=counts):
            self.write(told)

    def ask_built_in(self, split: Split) -> None:
        """Ask the model that the base was made of, unless that is done."""
        if not self.found(split, BUILT_IN, 0):
            asked = asked_of_shipped(split, CLIPS[split])
            self.write({"run": BUILT_IN, "split": split, "seed": 0, "lr": None} | asked)

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
            self.write({"run": BASE, "split": split, "seed": 0, "lr": None} | asked)
        self.write(cell | {"split": split} | asked_of_run(folder, False, split, count))

    def write(self, cell: Cell) -> None:
        """One more, with what base it was trained from."""
        super().write(cell | {"base": self.base})


def quick() -> None:
    """A few short runs in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "cells.jsonl", Path(folder), quick=True)
        for arm in ARMS[:QUICK_ARMS]:
            bench.add(arm, "heldout", 0, arm.lr)
    print(f"quick: {QUICK_CLIPS} clips, {QUICK_STEPS} steps, one seed; no figure of it counts\n")
    print(tables(bench.cells))


def main() -> None:
    chosen = options(__doc__ or "", ARMS)
    if chosen.quick:
        quick()
        return
    bench = Bench(RESULTS / "shapes_video.jsonl", ROOT / "runs" / "shapes_video")
    arms = [arm for arm in ARMS if arm.name in (chosen.only or [arm.name for arm in ARMS])]
    if chosen.sweep:
        for rate in chosen.rates:
            for arm in arms:
                if arm.name in (chosen.only or SWEPT):
                    bench.add(arm, "validation", 0, rate)
                    print(selection(bench.cells), flush=True)
    elif not chosen.page:
        bench.ask_built_in("heldout")
        for arm, seed in order(arms):
            bench.add(arm, "heldout", seed, arm.lr)
            print(brief(bench.cells, arm.name, seed), flush=True)
    (RESULTS / "shapes_video.md").write_text(page(bench.cells, used()))


if __name__ == "__main__":
    main()
