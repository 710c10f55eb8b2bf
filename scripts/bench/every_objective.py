"""Does every objective train on the built-in model, as its shipped config stands?

The configs are the files of configs/objectives/<adapter>/, one per objective. Each runs for a few steps in a
folder that is thrown away, with few held-out rows. Exit status 1 if one is refused, fails or gives a loss
that is no finite number, and for every objective that the adapter can train but that has no config.

    python scripts/bench/every_objective.py --adapter diffusion --steps 5
    python scripts/bench/every_objective.py --adapter vlm --steps 5
    python scripts/bench/every_objective.py --adapter video_lm --steps 5
    python scripts/bench/every_objective.py --only dpo sft --steps 2
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmalign import api
from mmalign.catalogue import catalogue
from mmalign.types import UserError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "objectives"
HELDOUT = 4
"""Held-out rows: their figures are not looked at, only that they can be had."""


@dataclass(frozen=True)
class Tried:
    """One config's run: how long it took, its loss at the first and last step, and what went wrong."""

    objective: str
    seconds: float
    first: float = math.nan
    last: float = math.nan
    fault: str | None = None

    @property
    def row(self) -> str:
        """The run as a row of the table."""
        losses = "" if math.isnan(self.first) else f"{self.first:.5f} / {self.last:.5f}"
        return f"| {self.objective} | {self.seconds:.1f} | {losses} | {self.fault or 'ok'} |"


def configs_of(adapter: str) -> dict[str, Path]:
    """The shipped configs by the objective that each is named after."""
    return {path.stem: path for path in sorted((CONFIGS / adapter).glob("*.yaml"))}


def without_config(adapter: str) -> list[str]:
    """Objectives that the adapter can train and that no config is named after. Those on parts of clips have
    theirs among the configs for real models: the built-in model makes pictures."""
    elsewhere = {path.stem.split("_")[0] for path in (ROOT / "configs" / "video").glob("*.yaml")}
    return [
        entry.name
        for entry in catalogue("objectives", adapter)
        if entry.name not in configs_of(adapter)
        and not ("segments" in entry.needs and entry.name in elsewhere)
    ]


def tried(path: Path, steps: int, folder: Path) -> Tried:
    """Run one config for `steps` steps with its output in `folder`."""
    overrides = [f"train.steps={steps}", "train.warmup_steps=0", "log={every: 1, progress: false}"]
    overrides += [f"output={folder / path.stem}", f"cache={folder / 'cache'}"]
    began = time.perf_counter()
    try:
        if api.load_config(path).heldout is not None:
            overrides.append(f"heldout.limit={HELDOUT}")
        run = api.train(path, *overrides)
    except UserError as error:
        return Tried(path.stem, time.perf_counter() - began, fault=f"refused: {error}")
    except Exception as error:  # a table of all is wanted, with every fault in it
        line = str(error).split("\n")[0]
        return Tried(path.stem, time.perf_counter() - began, fault=f"{type(error).__name__}: {line}")
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    if len(losses) != steps:
        return Tried(path.stem, seconds, fault=f"logged {len(losses)} losses in {steps} steps")
    bad = [loss for loss in losses if loss is None or not math.isfinite(loss)]
    fault = f"{len(bad)} losses are no finite number" if bad else None
    return Tried(path.stem, seconds, losses[0], losses[-1], fault)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if anything in it is not ok."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--adapter", default="diffusion", choices=[p.name for p in sorted(CONFIGS.iterdir())])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="these objectives")
    options = parser.parse_args(arguments)
    found = configs_of(options.adapter)
    missing = without_config(options.adapter)
    if options.only is not None:
        missing = [name for name in options.only if name not in found]
        found = {name: path for name, path in found.items() if name in options.only}
    print("| objective | seconds | loss first / last | |\n|---|---|---|---|")
    good = not missing
    with tempfile.TemporaryDirectory() as folder:
        for path in found.values():
            one = tried(path, options.steps, Path(folder))
            print(one.row, flush=True)
            good = good and one.fault is None
    for name in missing:
        print(f"| {name} | | | no config in {(CONFIGS / options.adapter).relative_to(ROOT)} |")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
