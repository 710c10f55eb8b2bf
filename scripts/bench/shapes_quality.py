"""Does alignment align? The built-in world's answer, with its two controls, on held-out prompts.

For each modality and seed, three runs of equal length from the same base: DPO, supervised fine-tuning on the
chosen side, and DPO with shuffled labels. An exact judge scores base and trained model on the same prompts
and the same noise. A finished cell is one line of runs/shapes_quality/cells.jsonl and is not run again.

    python scripts/bench/shapes_quality.py            # 200 prompts, three seeds; writes results/
    python scripts/bench/shapes_quality.py --quick    # 64 prompts, one seed; prints only
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmalign import api
from mmalign.evaluation.win_rate import win_rate
from mmalign.shapes import preferences, stories
from mmalign.training.finished import open_run
from mmalign.training.record import versions
from mmalign.types import Message, Part, derive_seed

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).parent / "results" / "shapes_quality.md"
MODALITIES: dict[str, tuple[str, str]] = {"text": ("grammar", "valid"), "image": ("faithfulness", "strict")}
ARMS = {"dpo": [], "sft": ["objective.name=sft"], "shuffled": ["data.flip=0.5"]}
Cell = dict[str, Any]
Scores = dict[str, list[float]]


def prompts(modality: str, count: int) -> list[tuple[Message, ...]]:
    """The same held-out prompts for every cell."""
    if modality == "text":
        return [(Message("user", (Part("text", p),)),) for p in stories.heldout_prompts(count, 0)]
    return [(Message("text", (Part("text", p),)),) for p in preferences.heldout_prompts(count, 0)]


def run_cell(
    modality: str, arm: str, seed: int, count: int, folder: Path, steps: int | None, base: Scores | None
) -> Cell:
    """Train one run and score base and tuned model on the same noise; `base` holds the base's scores if
    another run of this seed has them already."""
    output = folder / f"{modality}-{arm}-{seed}"
    overrides = [*ARMS[arm], f"seed={seed}", f"output={output}", "log.progress=false", "heldout=null"]
    overrides += [f"train.steps={steps}"] if steps else []
    config = api.load_config(ROOT / f"configs/quickstart/{modality}.yaml", *overrides)
    api.train(config)
    run = open_run(output)
    asked = prompts(modality, count)
    seeds = [derive_seed(seed, 0, str(i), "shapes_quality") for i in range(len(asked))]
    cell: Cell = {
        "modality": modality,
        "arm": arm,
        "seed": seed,
        "prompts": count,
        "steps": config.train.steps,
    }
    for name, switch in (("base", run.base), ("tuned", run.tuned)):
        if name == "base" and base is not None:
            cell[name] = base
            continue
        with switch() as model:
            answers = run.adapter.generate(model, asked, seeds)
        judged = [config.evaluation.judge.score(p, a) for p, a in zip(asked, answers, strict=True)]
        cell[name] = {key: [round(j[key], 6) for j in judged] for key in ("score", *MODALITIES[modality])}
    return cell


def interval(rows: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean over seeds and prompts, with a 95 % bootstrap interval over both: rows are seeds, columns prompts.

    A seed's runs share their chance drift on every prompt, so prompts alone would give too narrow a range.
    """
    rng = random.Random(0)
    means = []
    for _ in range(2000):
        chosen = rng.choices(range(len(rows[0])), k=len(rows[0]))
        seeds = rng.choices(rows, k=len(rows))
        means.append(statistics.fmean(row[column] for row in seeds for column in chosen))
    means.sort()
    return statistics.fmean(v for row in rows for v in row), means[50], means[1949]


def wins(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """1 for a win, 0.5 for a tie, 0 for a loss, prompt by prompt."""
    return [0.5 * (1 + (a > b) - (a < b)) for a, b in zip(ours, theirs, strict=True)]


def table(cells: Sequence[Cell]) -> str:
    """Markdown rows: win rate over the base, over SFT, and what happened to the guards."""
    lines = [
        "| modality | run | steps | win rate over base | ties | judge's score | guard: mean change "
        "| win rate over SFT |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for modality, guards in MODALITIES.items():
        own = [c for c in cells if c["modality"] == modality]
        for arm in ARMS:
            runs = sorted((c for c in own if c["arm"] == arm), key=lambda c: c["seed"])
            if not runs:
                continue
            won = [wins(c["tuned"]["score"], c["base"]["score"]) for c in runs]
            seeds = "/".join(f"{100 * statistics.fmean(row):.0f}" for row in won)
            rate = f"{_percent(interval(won))} ({seeds})"
            ties = statistics.fmean(win_rate(c["base"]["score"], c["tuned"]["score"]).ties for c in runs)
            before, after = (_mean(runs, side, "score") for side in ("base", "tuned"))
            kept = "; ".join(f"{g} {_points(runs, g)}" for g in guards)
            over = _over_sft(own, runs) if arm == "dpo" else ""
            score = f"{before:.2f} -> {after:.2f}"
            fields = [modality, arm, str(runs[0]["steps"]), rate, f"{ties:.0%}", score, kept, over]
            lines.append(f"| {' | '.join(fields)} |")
    return "\n".join(lines)


def _mean(runs: Sequence[Cell], side: str, key: str) -> float:
    return statistics.fmean(v for c in runs for v in c[side][key])


def _points(runs: Sequence[Cell], key: str) -> str:
    changes = [[100 * (a - b) for a, b in zip(c["tuned"][key], c["base"][key], strict=True)] for c in runs]
    middle, low, high = interval(changes)
    return f"{middle:+.1f} [{low:+.1f}, {high:+.1f}] points"


def _over_sft(own: Sequence[Cell], runs: Sequence[Cell]) -> str:
    sft = {c["seed"]: c for c in own if c["arm"] == "sft"}
    if any(c["seed"] not in sft for c in runs):
        return ""
    return _percent(interval([wins(c["tuned"]["score"], sft[c["seed"]]["tuned"]["score"]) for c in runs]))


def _percent(values: tuple[float, float, float]) -> str:
    return f"{values[0]:.1%} [{values[1]:.1%}, {values[2]:.1%}]"


def cells_of(options: argparse.Namespace, run: Callable[..., Cell]) -> list[Cell]:
    """All cells, from the file where they are there."""
    folder = ROOT / "runs" / ("shapes_quality_quick" if options.quick else "shapes_quality")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "cells.jsonl"
    cells = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(c["modality"], c["arm"], c["seed"]) for c in cells}
    for seed in range(1 if options.quick else 3):
        for modality in options.modality or MODALITIES:
            for arm in ARMS:
                if (modality, arm, seed) not in done:
                    same = [c["base"] for c in cells if (c["modality"], c["seed"]) == (modality, seed)]
                    count = 64 if options.quick else 200
                    cell = run(modality, arm, seed, count, folder, options.steps, same[0] if same else None)
                    cells.append(cell)
                    with file.open("a") as out:
                        out.write(json.dumps(cell) + "\n")
    return [c for c in cells if c["modality"] in (options.modality or MODALITIES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="64 prompts, one seed")
    parser.add_argument("--modality", nargs="*", choices=list(MODALITIES))
    parser.add_argument("--steps", type=int, help="steps of every run instead of the configs' own")
    options = parser.parse_args()
    found = table(cells_of(options, run_cell))
    print(found)
    if not options.quick and not options.modality:
        used = ", ".join(f"{name} {version}" for name, version in versions().items())
        RESULT.write_text(
            "# Built-in world: aligned against base, with controls\n\n"
            "200 held-out prompts, three training seeds, the same noise for base and tuned; brackets are\n"
            "95 % bootstrap intervals over seeds and prompts, in parentheses single seeds; ties count one\n"
            "half. Rows called dpo are the quickstart's runs; that of text is dpo + 20 sft. Made by\n"
            f"`scripts/bench/shapes_quality.py` on CPU with {used}.\n\n{found}\n"
        )


if __name__ == "__main__":
    main()
