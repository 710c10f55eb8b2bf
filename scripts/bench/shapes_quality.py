"""Does alignment align? The built-in world's answer, with its two controls, on held-out prompts.

For each modality and seed, runs of equal length from the same base: the quickstart's objective, supervised
fine-tuning on the chosen side, and the objective with shuffled labels; for pictures also plain DPO. An exact
judge scores base and trained model on the same prompts and the same noise. A finished cell is one line of
runs/shapes_quality/cells.jsonl and is not run again.

    python scripts/bench/shapes_quality.py            # 200 prompts, three seeds; writes results/
    python scripts/bench/shapes_quality.py --quick    # 64 prompts, one seed; prints only
"""

import argparse
import json
import statistics
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from _intervals import changes, interval, percent, points, wins
from _seeing import SHOWN, Asked, seeing_prompts, seeing_table

from mmalign import api
from mmalign.evaluation.win_rate import win_rate
from mmalign.shapes import preferences, stories
from mmalign.training.finished import open_run
from mmalign.training.record import versions
from mmalign.types import Judge, Message, Part, derive_seed

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).parent / "results" / "shapes_quality.md"
GUARDS: dict[str, tuple[str, str]] = {"text": ("grammar", "valid"), "image": ("faithfulness", "strict")}
CONTROLS = {"sft": ["objective.name=sft"], "shuffled": ["data.flip=0.5"]}
PLAIN = ["objective={name: dpo, beta: 0.1}"]
ARMS: dict[str, dict[str, list[str]]] = {
    "text": {"dpo": []} | CONTROLS,
    "image": {"dpo": []} | CONTROLS,
    "vlm": {"mdpo": [], "dpo": PLAIN} | CONTROLS,
    "video": {"dpo + sft": []} | CONTROLS,
}
ABOUT = """\
# Built-in world: aligned against base, with controls

200 held-out prompts of every kind, three training seeds, the same noise for base and tuned; brackets are 95 %
bootstrap intervals over seeds and prompts, in parentheses single seeds; ties count one half. Settings were
chosen on the validation stream. The first run of each modality is the quickstart's: dpo + 20 sft for text,
dpo for image, mdpo for vlm (pictures), dpo + sft for video (clips). "sft" trains on the chosen side alone and
"shuffled" on labels of which half are swapped; all runs of a modality take equal steps at the same rate.

Of pictures and clips, whose answers are greedy, figures are percentages before -> after, with the change in
points. What must not fall is recall, exact captions and presence for pictures, order and count for clips:
plain dpo on the same pairs of captions names fewer absent things by naming less. A gain that comes from
seeing the motion cannot survive frames that are reversed, or one frame shown four times. Shuffled frames
still show what stays, and along which axis the rest moves, so that a part of it may.
"""
Cell = dict[str, Any]
Scores = dict[str, list[float]]


def prompts(modality: str, count: int) -> dict[str, list[Asked]]:
    """The same held-out prompts for every cell, by the prefix of their figures."""
    if modality in SHOWN:
        return seeing_prompts(modality, count)
    if modality == "text":
        turns = [Message("user", (Part("text", p),)) for p in stories.heldout_prompts(count, 0)]
    else:
        turns = [Message("text", (Part("text", p),)) for p in preferences.heldout_prompts(count, 0)]
    return {"": [Asked((turn,), (turn,)) for turn in turns]}


def run_cell(
    modality: str, arm: str, seed: int, count: int, folder: Path, steps: int | None, base: Scores | None
) -> Cell:
    """Train one run and score base and tuned model on the same noise; `base` holds the base's scores if
    another run of this seed has them already."""
    output = folder / f"{modality}-{arm.replace(' + ', '-')}-{seed}"
    overrides = [*ARMS[modality][arm], f"seed={seed}", f"output={output}"]
    overrides += ["log.progress=false", "heldout=null"]
    overrides += [f"train.steps={steps}"] if steps else []
    config = api.load_config(ROOT / f"configs/quickstart/{modality}.yaml", *overrides)
    api.train(config)
    run = open_run(output)
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
        cell[name] = {}
        for prefix, asked in prompts(modality, count).items():
            seeds = [derive_seed(seed, 0, str(i), "shapes_quality") for i in range(len(asked))]
            with switch() as model:
                answers = run.adapter.generate(model, [one.prompt for one in asked], seeds)
            cell[name] |= scored(config.evaluation.judge, asked, answers, prefix)
    return cell


def scored(judge: Judge, asked: Sequence[Asked], answers: Sequence[Part], prefix: str) -> Scores:
    """The judge's figures by name, each over the prompts that have it."""
    found: Scores = {}
    for one, answer in zip(asked, answers, strict=True):
        for name, value in judge.score(one.judged, answer).items():
            found.setdefault(prefix + name, []).append(round(value, 6))
    return found


def table(cells: Sequence[Cell]) -> str:
    """Markdown rows: win rate over the base, over SFT, and what happened to the guards."""
    lines = [
        "| modality | run | steps | win rate over base | ties | judge's score | guard: mean change "
        "| win rate over SFT |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for modality, guards in GUARDS.items():
        own = [c for c in cells if c["modality"] == modality]
        for arm in ARMS[modality]:
            runs = sorted((c for c in own if c["arm"] == arm), key=lambda c: c["seed"])
            if not runs:
                continue
            won = [wins(c["tuned"]["score"], c["base"]["score"]) for c in runs]
            seeds = "/".join(f"{100 * statistics.fmean(row):.0f}" for row in won)
            rate = f"{percent(interval(won))} ({seeds})"
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
    return points(changes([c["base"][key] for c in runs], [c["tuned"][key] for c in runs]))


def _over_sft(own: Sequence[Cell], runs: Sequence[Cell]) -> str:
    sft = {c["seed"]: c for c in own if c["arm"] == "sft"}
    if any(c["seed"] not in sft for c in runs):
        return ""
    return percent(interval([wins(c["tuned"]["score"], sft[c["seed"]]["tuned"]["score"]) for c in runs]))


def cells_of(options: argparse.Namespace, run: Callable[..., Cell]) -> list[Cell]:
    """All cells, from the file where they are there."""
    folder = ROOT / "runs" / ("shapes_quality_quick" if options.quick else "shapes_quality")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "cells.jsonl"
    cells = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(c["modality"], c["arm"], c["seed"]) for c in cells}
    for seed in range(1 if options.quick else 3):
        for modality in options.modality or ARMS:
            for arm in ARMS[modality]:
                if (modality, arm, seed) not in done:
                    same = [c["base"] for c in cells if (c["modality"], c["seed"]) == (modality, seed)]
                    count = 64 if options.quick else 200
                    cell = run(modality, arm, seed, count, folder, options.steps, same[0] if same else None)
                    cells.append(cell)
                    with file.open("a") as out:
                        out.write(json.dumps(cell) + "\n")
    return [c for c in cells if c["modality"] in (options.modality or ARMS)]


def _has(cells: Sequence[Cell], modalities: Container[str]) -> bool:
    return any(cell["modality"] in modalities for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="64 prompts, one seed")
    parser.add_argument("--modality", nargs="*", choices=list(ARMS))
    parser.add_argument("--steps", type=int, help="steps of every run instead of the configs' own")
    options = parser.parse_args()
    cells = cells_of(options, run_cell)
    parts = [table([c for c in cells if c["modality"] in GUARDS])] if _has(cells, GUARDS) else []
    for modality in SHOWN:
        own = [c for c in cells if c["modality"] == modality]
        parts += [seeing_table(own, modality, list(ARMS[modality]))] if own else []
    found = "\n\n".join(parts)
    print(found)
    if not options.quick and not options.modality:
        used = ", ".join(f"{name} {version}" for name, version in versions().items())
        RESULT.write_text(
            f"{ABOUT}\nMade by `scripts/bench/shapes_quality.py` on CPU with {used}.\n\n{found}\n"
        )


if __name__ == "__main__":
    main()
