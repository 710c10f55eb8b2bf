"""Training state as tensors plus JSON, and back, bit for bit; no pickle, so that loading needs no trust."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.types import State


@dataclass(frozen=True)
class Progress:
    """Where a run stands, in plain Python values. `schedule` is the learning-rate schedule's state_dict,
    `skipped` counts by reason, `extra` whatever else the trainer must find again."""

    step: int
    samples_seen: int
    seed: int
    config_hash: str
    world_size: int
    versions: Mapping[str, str]
    schedule: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointState:
    """All that a resume needs. `model` holds trainable tensors by name, `optimizer` a torch state_dict,
    `objective` the objective's state and `reference` the weights of a reference that moves. It is the same on
    every process, so rank 0's is written: what one draws at random follows from seeds."""

    progress: Progress
    model: State = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    objective: State = field(default_factory=dict)
    reference: State = field(default_factory=dict)


def split(value: Any, name: str = "") -> tuple[dict[str, Tensor], Any]:
    """Divide a nested state (such as `optimizer.state_dict()`) into its tensors and a JSON skeleton.

    Tensors are named by their place, "state.0.exp_avg". What JSON has no form for (tuples, integer keys, NaN
    and infinity) becomes a dict with one key that starts with "$". Raises ValueError naming the place of a
    value that is neither a tensor nor a plain Python value.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _encode(value, name, tensors)


def join(tensors: Mapping[str, Tensor], skeleton: Any) -> Any:
    """The nested state that `split` divided."""
    if isinstance(skeleton, list):
        return [join(tensors, item) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if not _is_tag(skeleton):
        return {key: join(tensors, item) for key, item in skeleton.items()}
    ((kind, inner),) = skeleton.items()
    if kind == "$tensor":
        return tensors[inner]
    if kind == "$float":
        return float(inner)
    if kind == "$tuple":
        return tuple(join(tensors, item) for item in inner)
    return {key: join(tensors, item) for key, item in inner}


def _is_tag(value: Mapping[Any, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in ("$tensor", "$float", "$tuple", "$dict")


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    def inside(key: int | str, item: Any) -> Any:
        return _encode(item, f"{name}.{key}" if name else str(key), tensors)

    if isinstance(value, Tensor):
        tensors[name] = value
        return {"$tensor": name}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, (list, tuple)):
        items = [inside(place, item) for place, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict) and all(type(key) is str for key in value) and not _is_tag(value):
        return {key: inside(key, item) for key, item in value.items()}
    if isinstance(value, dict) and all(type(key) in (int, str) for key in value):
        return {"$dict": [[key, inside(key, item)] for key, item in value.items()]}
    raise ValueError(f"state '{name}' is a {type(value).__name__}, which a checkpoint cannot hold")


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous on the CPU, no two sharing memory (the file format refuses shared memory)."""
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        place = plain.untyped_storage().data_ptr()
        if place in seen:
            plain = plain.clone()
        seen.add(place)
        ready[name] = plain
    return ready


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def trainable_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, by name, detached; tied parameters once."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


@torch.no_grad()
def restore_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved values into the parameters that train; ValueError naming what is missing, left over or of
    another shape or dtype. Nothing is copied unless everything fits."""
    own = {name: p for name, p in module.named_parameters() if p.requires_grad}
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is not a parameter that trains" for name in tensors if name not in own]
    for name in own.keys() & tensors.keys():
        ours, theirs = own[name], tensors[name]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            problems.append(
                f"{name} is {theirs.dtype} {list(theirs.shape)}, needs {ours.dtype} {list(ours.shape)}"
            )
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"the saved weights do not fit this model: {'; '.join(sorted(problems)[:5])}{more}")
    for name, parameter in own.items():
        parameter.copy_(tensors[name])
