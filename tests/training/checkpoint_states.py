"""Small training states for the checkpoint tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmalign.training.checkpoint import CheckpointState, Progress, latest, load


def progress(step: int, **changes: Any) -> Progress:
    """Progress at a step with some fields changed."""
    plain = Progress(step, 8 * step, seed=3, config_hash="c0", world_size=1, versions={"torch": "2"})
    return replace(plain, **changes)


def small(step: int, value: float = 0.0) -> CheckpointState:
    """A state whose contents depend on its step only, small enough to save hundreds of times."""
    return CheckpointState(
        progress(step, schedule={"last_epoch": step, "_last_lr": [0.1 / (step + 1)]}, skipped={"nan": 1}),
        model={"w": torch.arange(4.0) + step + value},
        optimizer={"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": [{"lr": 0.1}]},
        objective={"kl": torch.tensor(step / 3)},
    )


def steps(folder: Path) -> list[str]:
    """Names of all that lies in checkpoints/."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def same(a: Any, b: Any) -> bool:
    """Equality of nested states with tensors compared bit for bit and types kept."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def found_state(folder: Path) -> CheckpointState:
    """The newest whole checkpoint, loaded."""
    found = latest(folder).found
    assert found is not None
    return load(found)
