"""Time, operations and memory of a DPO step against TRL and a plain loop, on one CPU thread.

Run by the environment that scripts/peer_env.sh makes, on a quiet machine:

    .peer/bin/python scripts/bench/trl_speed.py                 # all workloads; writes results/trl_speed*
    .peer/bin/python scripts/bench/trl_speed.py --workload C1   # one of them; the others' results stay
    .peer/bin/python scripts/bench/trl_speed.py --quick         # three rounds; prints only

Nothing is recorded if the load average is above 1.5 before or after (this process itself is 1.0), unless
--force is given; the load is part of the record either way. The protocol is described in README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import platform
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _one_thread  # noqa: F401  before torch looks
import numpy as np
import torch
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
from _sides import SIDES, build
from _workloads import WORKLOADS, Workload, write_inputs

RESULTS = Path(__file__).parent / "results"
MAX_LOAD = 1.5
VERSIONS = ("mmalign", "trl", "torch", "transformers", "peft", "accelerate")


def measure(workload: Workload, folder: Path, warmup: int, rounds: int) -> dict[str, Any]:
    """The record of one workload."""
    write_inputs(workload, folder)
    before = load_average()
    sides = {name: build(name, workload, folder) for name in SIDES}
    equal = check_equal(sides, against="naive")
    flops = count_flops(sides)
    times = interleave(sides, workload.pairs, warmup, rounds)
    after = load_average()
    del sides
    memory = measure_memory(Path(__file__), workload.name, list(SIDES), folder)
    return {
        "title": workload.title,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        "load": [before, after],
        "warmup": warmup,
        "rounds": rounds,
        "sides": {
            name: {
                **equal[name],
                "flops": flops[name],
                "peak_bytes": memory[name],
                "wall_s": times[name].wall,
                "cpu_s": times[name].cpu,
                "spread": times[name].spread,
            }
            for name in SIDES
        },
    }


def _ratio_text(record: dict[str, Any], slow: str, fast: str, kind: str) -> str:
    middle, low, high = ratio(record["sides"][slow][kind], record["sides"][fast][kind])
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def tables(record: dict[str, Any]) -> str:
    """Markdown: what each side costs, then every peer against ours."""
    sides = record["sides"]
    lines = [
        f"## {record['title']}\n",
        f"{record['rounds']} rounds after {record['warmup']} of warm-up; load average "
        f"{record['load'][0]:.2f} before, {record['load'][1]:.2f} after. "
        + ", ".join(f"{name} {number}" for name, number in record["versions"].items())
        + ".\n",
        "| side | median step, s | spread | GFLOP executed | peak memory growth, MB | loss gap | cosine |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, title in SIDES.items():
        side = sides[name]
        noisy = " (!)" if side["spread"] > MAX_SPREAD else ""
        lines.append(
            f"| {title} | {np.median(side['wall_s']):.3f} | {side['spread']:.0%}{noisy} "
            f"| {side['flops'] / 1e9:.2f} | {side['peak_bytes'] / 1e6:.0f} | {side['loss_gap']:.1e} "
            f"| {side['cosine']:.7f} |"
        )
    lines += [
        "\nPeer divided by ours: median of paired ratios, bootstrap 95 % interval; above 1 ours wins.\n",
        "| peer | ours | wall time | processor time | FLOP | peak memory |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for peer in [name for name in SIDES if not name.startswith("ours")]:
        for own in ("ours_live", "ours_cached"):
            executed = sides[peer]["flops"] / sides[own]["flops"]
            held = sides[peer]["peak_bytes"] / sides[own]["peak_bytes"]
            lines.append(
                f"| {SIDES[peer]} | {own.removeprefix('ours_')} | {_ratio_text(record, peer, own, 'wall_s')} "
                f"| {_ratio_text(record, peer, own, 'cpu_s')} | {executed:.2f} | {held:.2f} |"
            )
    if any(side["spread"] > MAX_SPREAD for side in sides.values()):
        lines.append(f"\n(!) the spread is above {MAX_SPREAD:.0%}: the machine was not quiet, repeat the run")
    return "\n".join(lines) + "\n"


def record_results(name: str, record: dict[str, Any]) -> None:
    """Write this workload's numbers, then the page over all workloads measured so far."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"trl_speed_{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    known = [RESULTS / f"trl_speed_{other}.json" for other in WORKLOADS]
    parts = [tables(json.loads(path.read_text())) for path in known if path.exists()]
    head = (
        "# A DPO step against TRL and a plain loop\n\n"
        "Written by `scripts/bench/trl_speed.py`: float32, one CPU thread, one pair per step. The cached "
        "reference is the steady state, after the pass that fills the cache; in a single epoch that pass "
        "costs about what the live reference does.\n"
    )
    (RESULTS / "trl_speed.md").write_text("\n".join([head, *parts]))


def main() -> int:
    """Measure the chosen workloads; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workload", choices=list(WORKLOADS), nargs="+", default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1 + 3 rounds, results are printed only")
    parser.add_argument("--force", action="store_true", help="record results of a busy machine too")
    parser.add_argument("--memory-of", choices=list(SIDES), help="internal: this process measures one side")
    parser.add_argument("--folder", type=Path, help="internal: where the inputs lie")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if chosen.memory_of:
        with contextlib.redirect_stdout(sys.stderr):
            side = build(chosen.memory_of, WORKLOADS[chosen.workload[0]], chosen.folder)
        print(json.dumps({"bytes": peak_growth(side)}))
        return 0
    warmup, rounds = (1, 3) if chosen.quick else (chosen.warmup, chosen.rounds)
    status = 0
    for name in chosen.workload:
        if load_average() > MAX_LOAD and not (chosen.quick or chosen.force):
            print(f"{name} not measured: load {load_average():.2f}; wait or use --force", file=sys.stderr)
            return 1
        with tempfile.TemporaryDirectory() as folder:
            record = measure(WORKLOADS[name], Path(folder), warmup, rounds)
        print(tables(record), flush=True)
        busy = max(record["load"]) > MAX_LOAD
        if chosen.quick:
            continue
        if busy and not chosen.force:
            print(f"{name} not recorded: load above {MAX_LOAD}; wait or use --force", file=sys.stderr)
            status = 1
        else:
            record_results(name, record)
    return status


if __name__ == "__main__":
    sys.exit(main())
