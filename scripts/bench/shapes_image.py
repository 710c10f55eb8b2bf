"""What do the objectives do to the built-in image model? One table, with controls, on held-out prompts.

Every run is a shipped config of configs/objectives/diffusion: the same pairs, batch, steps and LoRA, with the
learning rate that did best on validation prompts (--sweep). A finished run is one line of
results/shapes_image.jsonl and is not run again; results/shapes_image.md is written anew from these lines.

    python scripts/bench/shapes_image.py            # 200 held-out prompts, up to three seeds: about 40 min
    python scripts/bench/shapes_image.py --quick    # 32 prompts, 20 steps, first three runs; prints only
    python scripts/bench/shapes_image.py --sweep    # 64 validation prompts at three learning rates
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from _finished import RESULTS, Finished, options, order, used
from _image_rounds import rounds_table
from _image_runs import (
    ARMS,
    BASE,
    NOISY,
    ROOT,
    Arm,
    Pictures,
    asked,
    drift,
    open_for_sampling,
    pixels,
    sampled,
    scores,
    trained,
)
from _image_table import page, selection, table

from mmalign.training.finished import FinishedRun
from mmalign.types import Message

PROMPTS = {"heldout": 200, "validation": 64}
QUICK_PROMPTS, QUICK_STEPS, QUICK_ARMS = 32, 20, 3


class Bench(Finished):
    """The finished runs of one file, and what is needed for more."""

    def __init__(self, file: Path, folder: Path, count: int | None = None, steps: int | None = None) -> None:
        """`count` and `steps` stand in for the usual numbers of prompts and steps."""
        super().__init__(file, folder)
        self.count, self.steps = count, steps

    def add(self, arm: Arm, split: str, seed: int, lr: float | None = None) -> None:
        """Train one run and score it, unless it is there."""
        if self.found(split, arm.name, seed, lr):
            return
        steps = self.steps if arm.compute_of is None else self._equal_steps(split, arm, seed)
        changes = [] if lr is None else [f"train.lr={lr}"]
        name = arm if lr is None else replace(arm, name=f"{arm.name} {lr:g}")
        cell, folder = trained(name, seed, steps, changes, self.folder / split)
        run = open_for_sampling(folder)
        prompts = asked(split, self.count or PROMPTS[split])
        before = self._base(run, split, prompts, NOISY if arm.reward else BASE)
        pictures = sampled(run, False, prompts)
        cell |= {"run": arm.name, "split": split, "style": arm.style}
        self.write(cell | {"drift": drift(pixels(pictures), before)} | scores(prompts, pictures))

    def _base(
        self, run: FinishedRun, split: str, prompts: Sequence[tuple[Message, ...]], name: str
    ) -> Pictures:
        """The base's pictures by the run's own sampler, which are scored under `name` when they are new."""
        file = self.folder / f"{'' if name == BASE else 'noisy-'}{split}-{len(prompts)}.npy"
        if not file.exists() or not self.found(split, name, 0):
            pictures = sampled(run, True, prompts)
            np.save(file, pixels(pictures))
            if not self.found(split, name, 0):
                self.write({"run": name, "seed": 0, "split": split, "lr": None} | scores(prompts, pictures))
        before: Pictures = np.load(file)
        return before

    def _equal_steps(self, split: str, arm: Arm, seed: int) -> int:
        """Steps of an objective that take the passes of another one's run; both have to be there."""
        other, own = (self.found(split, name, seed) for name in (arm.compute_of or "", arm.config))
        if other is None or own is None:
            raise SystemExit(f"{arm.name}: run {arm.compute_of} and {arm.config} first")
        return max(1, round(other["passes"] / (own["passes"] / own["steps"])))


def sweep(bench: Bench, arms: Sequence[Arm], rates: Sequence[float]) -> None:
    """Every config at every rate, on validation prompts; controls take the rate of what they control."""
    for arm in arms:
        if not arm.changes and arm.compute_of is None and arm.after is arm.reward is None:
            for rate in rates:
                bench.add(arm, "validation", 0, rate)
                print(selection(bench.cells), flush=True)


def quick(arms: Sequence[Arm]) -> None:
    """A few short runs in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "cells.jsonl", Path(folder), QUICK_PROMPTS, QUICK_STEPS)
        for arm in arms:
            bench.add(arm, "heldout", 0)
    print(f"quick: {QUICK_PROMPTS} prompts, {QUICK_STEPS} steps, one seed; no figure of it counts\n")
    print(table(bench.cells, arms))


def main() -> None:
    chosen = options(__doc__ or "", ARMS)
    arms = [arm for arm in ARMS if chosen.only is None or arm.name in chosen.only]
    if chosen.quick:
        quick(arms[:QUICK_ARMS])
        return
    bench = Bench(RESULTS / "shapes_image.jsonl", ROOT / "runs" / "shapes_image")
    if chosen.sweep:
        sweep(bench, arms, chosen.rates)
    elif not chosen.page:
        for arm, seed in order(arms):
            bench.add(arm, "heldout", seed)
            print((rounds_table if arm.reward else table)(bench.cells, ARMS), flush=True)
    (RESULTS / "shapes_image.md").write_text(page(bench.cells, ARMS, used()))


if __name__ == "__main__":
    main()
