"""Time, operations and memory of diffusion steps against the published scripts, on one CPU thread.

On a quiet machine, from the project's own environment:

    .venv/bin/python scripts/bench/diffusion.py                  # all workloads; writes results/diffusion*
    .venv/bin/python scripts/bench/diffusion.py --workload mapo  # one of them; the others' results stay
    .venv/bin/python scripts/bench/diffusion.py --quick          # five rounds and no memory; prints only

If the load average is above 1.5 before or after (this process itself is 1.0) results are recorded with
--force only, and marked as provisional. Equal results come first: without them there is no figure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _one_thread  # noqa: F401  before torch looks
import numpy as np
import torch
from _diffusion_inputs import write_inputs
from _diffusion_ours import DPO, Ours
from _diffusion_peers import Script
from _diffusion_sides import WORKLOADS, Bar, Workload, floor_flops
from _measure import (
    MAX_SPREAD,
    check_equal,
    count_flops,
    interleave,
    load_average,
    measure_memory,
    peak_growth,
    ratio,
)
from _sides import Side

RESULTS = Path(__file__).parent / "results"
MAX_LOAD = 1.5
VERSIONS = ("mmalign", "torch", "diffusers", "transformers", "peft", "accelerate")


def check_start(folder: Path) -> dict[str, float]:
    """Distance from ln 2 of our loss where the policy is its reference, in float32 and in bfloat16.

    Raises SystemExit if it is above 1e-6.
    """
    found = {}
    for precision in ("fp32", "bf16"):
        side = Ours(folder, DPO, "lora_off", train={"precision": precision}, start_equal=True)
        found[precision] = max(abs(side.backward(pair) - math.log(2)) for pair in range(3))
        if found[precision] > 1e-6:
            raise SystemExit(
                f"{precision}: the loss starts {found[precision]:.1e} from ln 2; no speed is reported"
            )
    return found


def check_same(sides: Mapping[str, Side], against: str) -> dict[str, dict[str, float]]:
    """`check_equal` with the draws of our first side on every side; the peers draw their own afterwards."""
    ours = next(side for side in sides.values() if isinstance(side, Ours))
    peers = [side for side in sides.values() if isinstance(side, Script)]
    for peer in peers:
        peer.given = ours.draws_of(0)
    found = check_equal(sides, against)
    for peer in peers:
        peer.given = None
    return found


def gemm_peak() -> float:
    """Floating-point operations a second of a 1024-wide float32 product, the best of twenty."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = math.inf
    for _ in range(20):
        begin = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - begin)
    return 2 * 1024**3 / best


def measure(name: str, folder: Path, warmup: int, rounds: int, memory: bool) -> dict[str, Any]:
    """The record of one workload."""
    workload = WORKLOADS[name]
    before = load_average()
    start = check_start(folder) if name == "dpo" else {}
    sides = {key: one.build(folder) for key, one in workload.sides.items()}
    equal = check_same(sides, workload.against)
    flops = count_flops(sides)
    for side in sides.values():
        if isinstance(side, Ours):
            side.fill()
    peak = gemm_peak()
    times = interleave(sides, 8, warmup, rounds)
    after = load_average()
    del sides
    held = measure_memory(Path(__file__), name, list(workload.sides), folder) if memory else {}
    return {
        "title": workload.title,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{one: version(one) for one in VERSIONS}},
        "load": [before, after],
        "warmup": warmup,
        "rounds": rounds,
        "gemm_flops_per_s": peak,
        "from_ln2": start,
        "floor_flops": {side: floor_flops(folder, workload, side) for side in workload.live},
        "sides": {
            key: {
                **equal[key],
                "flops": flops[key],
                "peak_bytes": held.get(key),
                "wall_s": times[key].wall,
                "cpu_s": times[key].cpu,
                "spread": times[key].spread,
            }
            for key in workload.sides
        },
    }


def machine() -> str:
    """The processor as the system names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{model}, {os.cpu_count()} processors, one thread used"


# ---------------------------------------------------------------- pages


def tables(name: str, record: dict[str, Any]) -> str:
    """Markdown: what each side costs, every peer against ours, and the bars."""
    workload, sides = WORKLOADS[name], record["sides"]
    busy = "**Provisional: the machine was not quiet.** " if max(record["load"]) > MAX_LOAD else ""
    lines = [
        f"## {record['title']}\n",
        f"{busy}{record['rounds']} rounds after {record['warmup']} of warm-up; load average "
        f"{record['load'][0]:.2f} before, {record['load'][1]:.2f} after. {record['machine']}, "
        f"{record['gemm_flops_per_s'] / 1e9:.0f} GFLOP/s in a product of matrices. "
        + ", ".join(f"{one} {number}" for one, number in record["versions"].items())
        + ".\n",
        "| side | median step, s | spread | GFLOP executed | peak memory growth, MB | loss gap | cosine |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for key, one in workload.sides.items():
        side = sides[key]
        noisy = " (!)" if side["spread"] > MAX_SPREAD else ""
        held = "-" if side["peak_bytes"] is None else f"{side['peak_bytes'] / 1e6:.0f}"
        lines.append(
            f"| {one.title} | {np.median(side['wall_s']):.3f} | {side['spread']:.0%}{noisy} "
            f"| {side['flops'] / 1e9:.2f} | {held} | {side['loss_gap']:.1e} | {side['cosine']:.7f} |"
        )
    lines += [
        "\nPeer divided by ours: median of paired ratios, bootstrap 95 % interval; above 1 ours wins. Memory "
        "is the growth of its peak; the floor is what the UNet alone must execute; use of peak is "
        "floor / (time x the speed of that product of matrices).\n",
        "| peer | ours | wall time | processor time | FLOP | memory | ours / floor | use of peak |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        _row(workload, record, peer, own)
        for peer in sides
        for own in workload.live
        if peer != own and peer not in workload.live
    ]
    lines += ["", *[_verdict(bar, sides) for bar in workload.bars]]
    if record["from_ln2"]:
        gaps = ", ".join(f"{gap:.1e} in {precision}" for precision, gap in record["from_ln2"].items())
        lines.append(f"\nDistance of the first loss from ln 2 where policy and reference agree: {gaps}.")
    if any(side["spread"] > MAX_SPREAD for side in sides.values()):
        lines.append(f"\n(!) the spread is above {MAX_SPREAD:.0%}: the machine was not quiet, repeat the run")
    return "\n".join(lines) + "\n"


def _row(workload: Workload, record: dict[str, Any], peer: str, own: str) -> str:
    theirs, ours, floor = record["sides"][peer], record["sides"][own], record["floor_flops"][own]
    held = "-" if ours["peak_bytes"] is None else f"{theirs['peak_bytes'] / ours['peak_bytes']:.2f}"
    used = floor / (np.median(ours["wall_s"]) * record["gemm_flops_per_s"])
    flops = f"{theirs['flops'] / ours['flops']:.2f}"
    times = f"{_ratio_text(theirs, ours, 'wall_s')} | {_ratio_text(theirs, ours, 'cpu_s')}"
    return (
        f"| {workload.sides[peer].title} | {workload.sides[own].title} | {times} | {flops} | {held} "
        f"| {ours['flops'] / floor:.3f} | {used:.0%} |"
    )


def _ratio_text(theirs: dict[str, Any], ours: dict[str, Any], kind: str) -> str:
    middle, low, high = ratio(theirs[kind], ours[kind])
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _verdict(bar: Bar, sides: dict[str, Any]) -> str:
    _, low, _ = ratio(sides[bar.peer]["wall_s"], sides[bar.ours]["wall_s"])
    said = "reached" if low >= bar.must else "missed"
    return f"{bar.id}: low end {low:.2f}, bar {bar.must}, goal {bar.goal}: bar {said}.\n"


def record_results(name: str, record: dict[str, Any]) -> None:
    """Write this workload's numbers, then the page over all workloads measured so far."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"diffusion_{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    known = {other: RESULTS / f"diffusion_{other}.json" for other in WORKLOADS}
    parts = [tables(other, json.loads(path.read_text())) for other, path in known.items() if path.exists()]
    head = (
        "# Diffusion steps against the published scripts\n\n"
        "Written by `scripts/bench/diffusion.py`: Stable Diffusion 1.5 at a fifth of its width with random "
        "weights, 128-pixel pictures, float32, one CPU thread, one pair a step. Ours has latents and text "
        "states cached and inverted paths kept, the steady state; a first epoch pays for them once. The "
        "scripts run the autoencoder and the text encoder every step.\n"
    )
    (RESULTS / "diffusion.md").write_text("\n".join([head, *parts]))


# ---------------------------------------------------------------- command line


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workload", choices=list(WORKLOADS), nargs="+", default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1 + 5 rounds, results are printed only")
    parser.add_argument("--force", action="store_true", help="record results of a busy machine too")
    parser.add_argument("--memory-of", help="internal: this process measures one side")
    parser.add_argument("--folder", type=Path, help="internal: where the inputs lie")
    return parser.parse_args()


def main() -> int:
    """Measure the chosen workloads; returns the exit status."""
    chosen = _arguments()
    torch.set_num_threads(1)
    for library in ("transformers", "diffusers"):
        logging.getLogger(library).setLevel(logging.ERROR)
    if chosen.memory_of:
        with contextlib.redirect_stdout(sys.stderr):
            side = WORKLOADS[chosen.workload[0]].sides[chosen.memory_of].build(chosen.folder)
        print(json.dumps({"bytes": peak_growth(side)}))
        return 0
    warmup, rounds = (1, 5) if chosen.quick else (chosen.warmup, chosen.rounds)
    status = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_inputs(folder)
        for name in chosen.workload:
            if load_average() > MAX_LOAD and not (chosen.quick or chosen.force):
                print(f"{name} not measured: load {load_average():.2f}; wait or use --force", file=sys.stderr)
                return 1
            record = measure(name, folder, warmup, rounds, memory=not chosen.quick)
            print(tables(name, record), flush=True)
            if chosen.quick:
                continue
            if max(record["load"]) > MAX_LOAD and not chosen.force:
                print(f"{name} not recorded: load above {MAX_LOAD}; wait or use --force", file=sys.stderr)
                status = 1
            else:
                record_results(name, record)
    return status


if __name__ == "__main__":
    sys.exit(main())
