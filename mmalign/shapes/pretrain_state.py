"""Saving and restoring a pretraining run: safetensors and JSON, written whole or not at all."""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Average:
    """An exponential moving average of a model's weights; its decay grows to `decay` over the first steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights after optimizer step number `step` (from 1)."""
        decay = min(self.decay, step / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warmup, then a cosine from `peak` down to 3 % of it at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def save_state(
    folder: Path, step: int, model: nn.Module, average: Average | None, optimizer: torch.optim.Optimizer
) -> None:
    """Write weights, average, moments and the step; the old state stays until the new one is whole."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{k}": v for k, v in average.weights.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for path in (fresh, old):
        shutil.rmtree(path, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, fresh / "state.safetensors")
    write_json(fresh / "state.json", {"step": step})
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(
    folder: Path, model: nn.Module, average: Average | None, optimizer: torch.optim.Optimizer
) -> int:
    """Restore what `save_state` wrote and return its step; 0, with nothing changed, where none is saved."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        old.rename(folder)
    if not folder.exists():
        return 0
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, value in load_file(folder / "state.safetensors").items():
        head, tail = name.split(".", 1)
        parts[head][tail] = value
    model.load_state_dict(parts["model"])
    if average is not None:
        average.weights = parts["average"]
    saved = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        index, moment = int(name.split(".", 1)[0]), name.split(".", 1)[1]
        if (
            value.shape == parameters[index].shape
        ):  # the fused kernels take for granted that memory layouts agree
            value = torch.empty_like(parameters[index]).copy_(value)
        moments.setdefault(index, {})[moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": saved["param_groups"]})
    return int(json.loads((folder / "state.json").read_text())["step"])


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, replacing the file in one go."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, path)
