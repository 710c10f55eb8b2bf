"""The page that the GPU benchmark writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from _gpu_workloads import WORKLOADS, Target
from _measure import ratio

_NAMES = {
    "ours": "ours",
    "ours_fixed": "ours, one fixed draw a pair, reference cached",
    "script": "script",
    "script_checkpointed": "script, activations recomputed",
}
_HEAD = (
    "# Diffusion steps at full size on one GPU\n\n"
    "Written by `scripts/bench/diffusion_gpu.py`: random weights of the published sizes in bfloat16 (what "
    "trains is in float32 under autocast), latents and text states of ours cached. The scripts run the "
    "autoencoder and the text encoders every step. Times are the device's own, medians over interleaved "
    "rounds; ratios are "
    "medians of paired ratios with a bootstrap 95 % interval.\n"
)


def page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown over all workloads measured so far."""
    known = [key for key in WORKLOADS if key in records]
    return "\n".join([_HEAD, *(_part(key, records[key]) for key in known)])


def _part(key: str, record: Mapping[str, Any]) -> str:
    here = record["machine"]
    versions = ", ".join(f"{one} {number}" for one, number in here["versions"].items())
    lines = [f"## {record['title']}\n", f"{here['device']}, CUDA {here['cuda']}, {versions}.\n"]
    if "failed" in record:
        last = record["failed"].strip().splitlines()[-1]
        return "\n".join([*lines, f"Not measured: {last}\n"])
    cut = " (cut short: the time was up)" if record["cut"] else ""
    lines.append(
        f"{record['pairs']} pairs a step, {record['rounds']} rounds{cut}, {record['warmup']} of warm-up; "
        f"a bfloat16 product of matrices runs at {here['gemm'] / 1e12:.3g} TFLOP/s.\n"
    )
    missed = [name for name, side in record["sides"].items() if not side["passed"]]
    if missed:
        lines.append(
            f"**These figures do not count: {', '.join(missed)} missed the limits of equal results.**\n"
        )
    lines += _sides(record)
    if record["rounds"]:
        lines += [_verdict(target, record) for target in WORKLOADS[key].targets]
    lines += [f"- {_NAMES[name]}: {why}, left out.\n" for name, why in record["dropped"].items()]
    lines += _waits(record)
    return "\n".join(lines) + "\n"


def _sides(record: Mapping[str, Any]) -> list[str]:
    lines = [
        "| side | step, ms | pairs/s | use of that product's speed | kept + step, GB | waits of the host "
        "| loss gap | cosine |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, side in record["sides"].items():
        middle = float(np.median(side["seconds"])) if side["seconds"] else float("nan")
        floor = side["floor"]
        used = "-" if floor is None else f"{floor / (middle * record['machine']['gemm']):.0%}"
        held = side["memory"]
        room = "-" if held["step"] is None else f"{held['kept'] / 1e9:.1f} + {held['step'] / 1e9:.1f}"
        waits = "-" if side["syncs"] is None else side["syncs"]["count"]
        how = _how(side["fits"])
        lines.append(
            f"| {_NAMES[name]}{how} | {1e3 * middle:.1f} | {record['pairs'] / middle:.3g} | {used} | {room} "
            f"| {waits} | {side['loss_gap']:.1e} | {side['cosine']:.5f} |"
        )
    gaps = {name: side["from_ln2"] for name, side in record["sides"].items() if side["from_ln2"] is not None}
    if gaps:
        told = ", ".join(f"{gap:.1e} ({_NAMES[name]})" for name, gap in gaps.items())
        lines.append(f"\nDistance of the first loss from ln 2 where policy and reference agree: {told}.\n")
    return [*lines, ""]


def _how(fits: Mapping[str, Any]) -> str:
    words = {"micro": "pairs a forward", "step_chunk": "steps of the path a forward"}
    found = [f"{fits[name]} {said}" for name, said in words.items() if name in fits]
    if fits.get("checkpointing"):
        found.append("activations recomputed")
    return f" ({', '.join(found)})" if found else ""


def _verdict(target: Target, record: Mapping[str, Any]) -> str:
    sides = record["sides"]
    if target.peer not in sides or target.ours not in sides:
        return ""
    middle, low, high = ratio(sides[target.peer]["seconds"], sides[target.ours]["seconds"])
    said = "reached" if low >= target.ratio else "missed"
    return (
        f"- {_NAMES[target.peer]} / {_NAMES[target.ours]}: {middle:.2f} [{low:.2f}, {high:.2f}], target "
        f"{target.ratio}: {said}.\n"
    )


def _waits(record: Mapping[str, Any]) -> list[str]:
    found = []
    for name, side in record["sides"].items():
        if name.startswith("ours") and side["syncs"] is not None:
            lines = ", ".join(f"{line} ({count})" for line, count in side["syncs"]["lines"])
            found.append(f"- where the host waits, {_NAMES[name]}: {lines or 'nowhere'}.\n")
    return found
