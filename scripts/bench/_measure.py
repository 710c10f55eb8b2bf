"""The measuring protocol: equal results first, then interleaved steps, counted operations and peak memory."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _workloads import gradients
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from _sides import Side

LOSS_LIMIT, COSINE_LIMIT = 1e-4, 0.9999
MAX_SPREAD = 0.15


@dataclass
class Times:
    """Seconds of every measured step of one side: by the clock, and of this process's processor time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def spread(self) -> float:
        """(90th - 10th percentile) / median of the wall times."""
        low, middle, high = np.percentile(self.wall, [10, 50, 90])
        return float((high - low) / middle)


def check_equal(sides: Mapping[str, Side], against: str) -> dict[str, dict[str, float]]:
    """Loss and gradient of every side on the first pair. Raises SystemExit if one differs from `against`."""
    losses, vectors = {}, {}
    for name, side in sides.items():
        losses[name] = side.backward(0)
        vectors[name] = gradients(side.model).double()  # in float32 a cosine of long vectors may exceed 1
        side.model.zero_grad()
    found = {}
    for name in sides:
        gap = abs(losses[name] - losses[against]) / abs(losses[against])
        cosine = float(torch.cosine_similarity(vectors[name], vectors[against], dim=0, eps=1e-30))
        found[name] = {"loss": losses[name], "loss_gap": gap, "cosine": cosine}
        if not (gap <= LOSS_LIMIT and cosine > COSINE_LIMIT):
            raise SystemExit(
                f"{name} does not compute what {against} does: loss {losses[name]:.6f} against "
                f"{losses[against]:.6f}, cosine of the gradients {cosine:.6f}; no speed is reported"
            )
    return found


def _addmm_flops(
    total: Sequence[int], left: Sequence[int], right: Sequence[int], out_shape: object = None, **scales: float
) -> int:
    """Operations of total += left @ right, from the shapes."""
    return 2 * left[0] * left[1] * right[1]


def count_flops(sides: Mapping[str, Side]) -> dict[str, int]:
    """Floating-point operations that torch executes for the gradients of one pair (matmuls and attention)."""
    # TRL's head accumulates with this one, which torch's own table leaves out
    in_place = {torch.ops.aten.addmm_: _addmm_flops}
    counted = {}
    for name, side in sides.items():
        with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            side.backward(0)
        counted[name] = counter.get_total_flops()
        side.model.zero_grad()
    return counted


def interleave(sides: Mapping[str, Side], pairs: int, warmup: int, rounds: int) -> dict[str, Times]:
    """Every round gives each side one step on the same pair; the order rotates from round to round."""
    names = list(sides)
    times = {name: Times() for name in names}
    for number in range(warmup + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            sides[name].backward(number % pairs)
            sides[name].update()
            if number >= warmup:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
        print(f"\rround {number + 1} of {warmup + rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Median of the paired ratios slow / fast, with a bootstrap 95 % interval of that median."""
    paired = np.asarray(slow) / np.asarray(fast)
    draw = np.random.default_rng(0)
    medians = np.median(draw.choice(paired, size=(5000, len(paired))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(paired)), float(low), float(high)


def load_average() -> float:
    """Runnable processes, averaged over the last minute."""
    return os.getloadavg()[0]


# ---------------------------------------------------------------- memory, in a process of its own


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}; peak memory can be read on Linux only")


def peak_growth(side: Side, steps: int = 3) -> int:
    """Growth of the resident high-water mark over the first steps, in bytes."""
    for tensor in side.model.state_dict().values():
        tensor.sum()  # weights are mapped from their file: reading them makes them resident
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew
    before = _status_bytes("VmRSS")
    for number in range(steps):
        side.backward(number)
        side.update()
    return _status_bytes("VmHWM") - before


def measure_memory(script: Path, workload: str, names: Sequence[str], folder: Path) -> dict[str, int]:
    """`peak_growth` of every side, each in a fresh process of `script --memory-of`."""
    found = {}
    for name in names:
        command = [sys.executable, str(script), "--workload", workload, "--memory-of", name]
        done = subprocess.run([*command, "--folder", str(folder)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"memory of {name} on {workload} failed:\n{done.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        found[name] = int(answer["bytes"])
    return found
