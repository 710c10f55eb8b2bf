"""The measuring protocol on a device: what fits, equal results, interleaved steps by the device's own clock.

All of it works on a CPU too, where the clock is the wall's and memory is not told.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from _diffusion_inputs import plain
from _gpu_peers import Peer
from _gpu_sides import GpuOurs
from torch import Tensor, nn

LIMITS = {"fp32": (1e-4, 0.9999), "bf16": (2e-2, 0.995)}
"""Largest relative gap of the losses and smallest cosine of the gradients, by precision."""

_SYNC = "called a synchronizing CUDA operation"


class Side(Protocol):
    """One contestant."""

    model: Any

    def ready(self) -> None:
        """Put the model into this side's mode; not timed."""

    def backward(self, pair: int = 0) -> float:
        """Loss of the step's pairs; gradients are added to what trains."""

    def step(self) -> None:
        """A whole step."""

    def held(self) -> list[Tensor]:
        """Tensors that stay on the device between steps because of this side."""


@dataclass
class Clock:
    """Seconds of a block, by events on the device's stream or, without one, by the wall."""

    device: torch.device
    seconds: float = 0.0
    _begin: Any = None

    def __enter__(self) -> Clock:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self._begin = torch.cuda.Event(enable_timing=True)
            self._begin.record()
        else:
            self._begin = time.perf_counter()
        return self

    def __exit__(self, *failure: object) -> None:
        if self.device.type == "cuda":
            end = torch.cuda.Event(enable_timing=True)
            end.record()
            torch.cuda.synchronize()
            self.seconds = self._begin.elapsed_time(end) / 1e3
        else:
            self.seconds = time.perf_counter() - self._begin


def free() -> None:
    """Give back what nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gemm_peak(device: torch.device) -> float:
    """Floating-point operations a second of a bfloat16 product of random matrices, the best of ten."""
    size = 8192 if device.type == "cuda" else 256
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(13):
        with Clock(device) as clock:
            torch.mm(left, right)
        best = min(best, clock.seconds)
    return 2 * size**3 / best


# ---------------------------------------------------------------- what fits


def fit(side: GpuOurs, attempts: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Any]:
    """The first of the attempts (pairs per forward `micro`, `step_chunk`, `checkpointing`) whose gradients
    fit into nine tenths of the device's memory; it stays set. Raises torch.OutOfMemoryError if none does."""
    for place, attempt in enumerate(attempts):
        side.configure(**attempt)
        try:
            peak = trial(side, device)
        except torch.OutOfMemoryError:
            if place == len(attempts) - 1:
                raise
        else:
            # the optimizer's two averages come with its first step
            averages = 8 * sum(p.numel() for p in side.trainable)
            enough = peak is None or peak + averages <= 0.9 * torch.cuda.mem_get_info()[1]
            if enough or place == len(attempts) - 1:
                return {**attempt, "peak_bytes": peak}
        clear(side.model)
        free()
    raise AssertionError("no attempt was given")


def trial(side: Side, device: torch.device) -> int | None:
    """Peak bytes on the device during one computation of gradients, which are let go."""
    side.ready()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        side.backward()
    finally:
        clear(side.model)
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None


def clear(model: nn.Module) -> None:
    """Without gradients."""
    for parameter in model.parameters():
        parameter.grad = None


# ---------------------------------------------------------------- equal results


def gate(sides: Mapping[str, Side], against: str, precision: str) -> dict[str, dict[str, Any]]:
    """Loss and gradient of every side on the same draws, compared with `against`; `passed` says whether both
    lie within LIMITS."""
    ours = next(side for side in sides.values() if isinstance(side, GpuOurs))
    given, losses, vectors = ours.given(), {}, {}
    for name, side in sides.items():
        if isinstance(side, Peer):
            side.given = given
        side.ready()
        losses[name], vectors[name] = side.backward(), _gradient(side.model)
        clear(side.model)
        if isinstance(side, Peer):
            side.given = None
    gap_limit, cosine_limit = LIMITS[precision]
    found = {}
    for name in sides:
        gap = abs(losses[name] - losses[against]) / abs(losses[against])
        cosine = _cosine(vectors[name], vectors[against])
        passed = gap <= gap_limit and cosine > cosine_limit
        found[name] = {"loss": losses[name], "loss_gap": gap, "cosine": cosine, "passed": passed}
    return found


def gate_by_exact(
    sides: Mapping[str, Side], found: Mapping[str, dict[str, Any]], against: str, exact: Peer
) -> None:
    """Where bfloat16 alone parts two sides, as it does gradients that nearly cancel between a pair's two
    pictures: `passed` if a side of ours is not much farther than `against` from what float32 gives."""
    ours = next(side for side in sides.values() if isinstance(side, GpuOurs))
    exact.given = ours.given()
    exact.ready()
    truth, direction = exact.backward(), _gradient(exact.model)
    for name, side in sides.items():
        if isinstance(side, Peer):
            side.given = exact.given
        side.ready()
        side.backward()
        found[name]["from_exact"] = 1 - _cosine(_gradient(side.model), direction)
        found[name]["loss_from_exact"] = abs(found[name]["loss"] - truth) / truth
        clear(side.model)
        if isinstance(side, Peer):
            side.given = None
    peer = found[against]
    for one in found.values():
        near = one["from_exact"] <= 1.5 * peer["from_exact"] + 1e-4
        one["passed"] = near and one["loss_from_exact"] <= 1.5 * peer["loss_from_exact"] + LIMITS["bf16"][0]


def _gradient(model: nn.Module) -> list[Tensor]:
    """Gradients on the CPU, which has room for those of every side."""
    named = {plain(name): p for name, p in model.named_parameters() if p.requires_grad}
    lost = [name for name in named if named[name].grad is None]
    if lost:
        raise RuntimeError(f"{lost[0]} has no gradient")
    return [named[name].grad.detach().float().cpu() for name in sorted(named)]  # type: ignore[union-attr]


def _cosine(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
        return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))

    return dot(left, right) / max((dot(left, left) * dot(right, right)) ** 0.5, 1e-30)


# ---------------------------------------------------------------- steps


@dataclass
class Times:
    """Seconds of every measured step of every side, by side; rounds of warm-up and whether time ran out."""

    seconds: dict[str, list[float]]
    warmup: int = 0
    cut: bool = False
    wall: dict[str, list[float]] = field(default_factory=dict)


def interleave(
    sides: Mapping[str, Side], warmup: int, rounds: int, device: torch.device, deadline: float
) -> Times:
    """Every round gives each side one step; the order rotates. Stops when, at the pace of the last round, the
    next one would end after `deadline` (of time.monotonic), though not before two are measured."""
    names = list(sides)
    times = Times({name: [] for name in names}, warmup, wall={name: [] for name in names})
    for number in range(warmup + rounds):
        began = time.monotonic()
        for name in names[number % len(names) :] + names[: number % len(names)]:
            sides[name].ready()
            gc.collect()
            wall = time.perf_counter()
            with Clock(device) as clock:
                sides[name].step()
            if number >= warmup:
                times.seconds[name].append(clock.seconds)
                times.wall[name].append(time.perf_counter() - wall)
        late = time.monotonic() + (time.monotonic() - began) > deadline
        if late and warmup + 1 <= number < warmup + rounds - 1:
            times.cut = True
            break
    return times


def syncs(side: Side, device: torch.device) -> dict[str, Any] | None:
    """How often the host waits for the device in one step, and in which lines; None without a device."""
    if device.type != "cuda":
        return None
    side.ready()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            side.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    waits = [one for one in caught if _SYNC in str(one.message)]
    lines = Counter(f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}" for one in waits)
    return {"count": len(waits), "lines": lines.most_common(12)}


def memory(side: Side, device: torch.device) -> dict[str, int | None]:
    """Bytes that this side keeps on the device, and what a step needs beside that, None without a device.
    Other sides are in memory as well, so neither is what the device as a whole holds."""
    held = [value for value in side.held() if value.device.type == device.type]
    kept = {value.data_ptr(): value.numel() * value.element_size() for value in held}
    if device.type != "cuda":
        return {"kept": sum(kept.values()), "step": None}
    side.ready()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    side.step()
    torch.cuda.synchronize()
    return {"kept": sum(kept.values()), "step": torch.cuda.max_memory_allocated() - before}
