"""Time and memory of diffusion steps at full size on one GPU, against the published scripts.

All of it in one call, about ten minutes on an H200; results are written after every workload:

    python scripts/bench/diffusion_gpu.py                       # writes results/diffusion_gpu.md and .json
    python scripts/bench/diffusion_gpu.py --only G7 G11 --quick # 3 + 5 rounds, prints only
    python scripts/bench/diffusion_gpu.py --tiny --device cpu   # all of the code at a toy size, in seconds

Weights are random and made on the device. Every workload first runs at a toy size in float32, where the sides
must agree to 1e-4 and their gradients to a cosine of 0.9999; at full size in bfloat16 the limits are 2e-2 and
0.995 or, for LoRA, the script's own distance from float32. Figures that miss them are marked as not counting.
"""

from __future__ import annotations

import os
import sys

if "cpu" in sys.argv:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import json
import logging
import math
import platform
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _gpu_measure import (
    LIMITS,
    clear,
    fit,
    free,
    gate,
    gate_by_exact,
    gemm_peak,
    interleave,
    memory,
    syncs,
    trial,
)
from _gpu_models import REAL, TOY, Frozen
from _gpu_pages import page
from _gpu_sides import GpuOurs, Pairs, perturb
from _gpu_workloads import WORKLOADS, Workload, exact_side, floor_flops

RESULTS = Path(__file__).parent / "results"
VERSIONS = ("torch", "diffusers", "transformers", "peft", "accelerate")


def strict(workload: Workload, device: torch.device) -> dict[str, dict[str, Any]]:
    """All sides at a toy size in float32; RuntimeError where one does not compute what the peer does."""
    torch.backends.cudnn.allow_tf32 = False
    try:
        frozen = Frozen.of(TOY[workload.shape], device)
        pairs = Pairs.random(min(workload.pairs, 2), frozen.shape.side)
        sides = workload.build(frozen, pairs, 3, "fp32")
        for side in sides.values():
            if isinstance(side, GpuOurs):
                side.prepare(perturb)
        found = gate(sides, workload.against, "fp32")
    finally:
        torch.backends.cudnn.allow_tf32 = True
    for name, one in found.items():
        if not one["passed"]:
            raise RuntimeError(
                f"{name} at a toy size in float32: loss {one['loss']:.6f}, gap {one['loss_gap']:.1e}, cosine "
                f"{one['cosine']:.6f} against {workload.against}; limits are {LIMITS['fp32']}"
            )
    return found


def measure(key: str, chosen: argparse.Namespace, device: torch.device, deadline: float) -> dict[str, Any]:
    """The record of one workload."""
    workload, began = WORKLOADS[key], time.monotonic()
    equal = strict(workload, device)
    frozen = Frozen.of((TOY if chosen.tiny else REAL)[workload.shape], device)
    steps, count = (3, min(workload.pairs, 2)) if chosen.tiny else (workload.steps, workload.pairs)
    pairs = Pairs.random(count, frozen.shape.side)
    sides = workload.build(frozen, pairs, steps, "bf16")
    record: dict[str, Any] = {
        "title": workload.title,
        "pairs": count,
        "fp32": equal,
        "dropped": {},
        "sides": {},
    }
    for name, side in list(sides.items()):
        if not isinstance(side, GpuOurs):
            continue
        record["sides"][name] = {"fits": fit(side, workload.attempts(count), device)}
        side.ready()
        record["sides"][name]["from_ln2"] = abs(side.backward() - math.log(2)) if workload.paired else None
        clear(side.model)
        side.prepare(perturb)
    for name, side in list(sides.items()):
        if isinstance(side, GpuOurs):
            continue
        try:
            record["sides"][name] = {"fits": {"peak_bytes": trial(side, device)}, "from_ln2": None}
        except torch.OutOfMemoryError:
            record["dropped"][name] = "does not fit"
            del sides[name], side
            free()
    against = workload.against if workload.against in sides else next(iter(sides))
    same = gate(sides, against, "bf16")
    if workload.lora and not all(one["passed"] for one in same.values()):
        gate_by_exact(sides, same, against, exact_side(frozen, pairs))
    for name, one in same.items():
        record["sides"][name] |= one
    free()
    warmup, rounds = (3, 5) if chosen.quick else (workload.warmup, workload.rounds)
    warmup, rounds = (1, 2) if chosen.tiny else (warmup, rounds)
    record["setup_s"] = time.monotonic() - began
    times = interleave(sides, warmup, rounds, device, deadline)
    record |= {"warmup": warmup, "rounds": len(next(iter(times.seconds.values()))), "cut": times.cut}
    floors = {name: floor_flops(workload, frozen, count, steps, live) for name, live in workload.live.items()}
    for name, side in sides.items():
        found = {"seconds": times.seconds[name], "wall_s": times.wall[name], "floor": floors.get(name)}
        record["sides"][name] |= {**found, "memory": memory(side, device), "syncs": syncs(side, device)}
    record["took_s"] = time.monotonic() - began
    return record


def machine(device: torch.device) -> dict[str, Any]:
    """What everything ran on."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    versions = {"python": platform.python_version(), **{one: version(one) for one in VERSIONS}}
    return {"device": name, "cuda": torch.version.cuda, "versions": versions, "gemm": gemm_peak(device)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=list(WORKLOADS), nargs="+", default=list(WORKLOADS))
    parser.add_argument("--quick", action="store_true", help="3 + 5 rounds; results are printed only")
    parser.add_argument("--tiny", action="store_true", help="toy sizes; results are printed only")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds in which no new round begins")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return parser.parse_args()


def main() -> int:
    """Measure the chosen workloads; returns the exit status, 1 if one of them failed or missed its limits."""
    began, chosen = time.monotonic(), _arguments()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device; --tiny --device cpu runs the code at a toy size", file=sys.stderr)
        return 2
    if chosen.device == "cpu" and not chosen.tiny:
        print("--device cpu: full sizes would take hours; add --tiny", file=sys.stderr)
        return 2
    for library in ("transformers", "diffusers"):
        logging.getLogger(library).setLevel(logging.ERROR)
    device = torch.device("cuda", 0) if chosen.device == "cuda" else torch.device("cpu")
    file, status = chosen.out / "diffusion_gpu.json", 0
    keep = not (chosen.quick or chosen.tiny)
    records: dict[str, Any] = json.loads(file.read_text()) if keep and file.exists() else {}
    here = machine(device)
    for place, key in enumerate(chosen.only):
        left = began + chosen.budget - time.monotonic()
        # what a workload leaves of its share goes to those after it
        shares = [WORKLOADS[one].share for one in chosen.only[place:]]
        deadline = time.monotonic() + left * shares[0] / sum(shares)
        try:
            record = {**measure(key, chosen, device, deadline), "machine": here}
        except Exception:  # the others are still to be measured, and a device is not lent twice
            record = {"title": WORKLOADS[key].title, "failed": traceback.format_exc(), "machine": here}
            status = 1
            print(record["failed"], file=sys.stderr, flush=True)
        free()
        missed = [n for n, one in record.get("sides", {}).items() if not one.get("passed", True)]
        status = 1 if missed else status
        print(page({key: record}), flush=True)
        if keep:
            records[key] = record
            chosen.out.mkdir(exist_ok=True, parents=True)
            file.write_text(json.dumps(records, indent=1) + "\n")
            (chosen.out / "diffusion_gpu.md").write_text(page(records))
    return status


if __name__ == "__main__":
    sys.exit(main())
