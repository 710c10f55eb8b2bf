"""One step of the run, forward and backward, after which no weight has moved."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from mmalign.config import RunConfig
from mmalign.data._cache import TensorCache
from mmalign.training._joining import join_scores
from mmalign.training.cache_size import Paths, check_space
from mmalign.training.checks import choose
from mmalign.training.console import Console
from mmalign.training.metrics import Means
from mmalign.training.optim import evaluating
from mmalign.training.reference import DERIVED
from mmalign.training.rows import RunData
from mmalign.training.setup import build_engine, micro_batches, starting_checks
from mmalign.training.step import (
    Engine,
    Micro,
    apply_objective,
    collate_labels,
    compute_gradients,
    score_all,
)
from mmalign.types import Adapter, Scores, State


@dataclass(frozen=True)
class Trial:
    """What one step gave. `expected_loss`: that of a policy equal to its reference, where it starts as such.
    `peak_bytes`: of the whole process on a CPU, of the tensors on a GPU; `optimizer_bytes` come on top with
    the first update."""

    samples: int
    loss: float
    expected_loss: float | None
    reward_margin: float | None
    gradient_norm: float
    trainable: int
    weights: int
    peak_bytes: int
    optimizer_bytes: int
    load_seconds: float
    step_seconds: float
    notes: tuple[str, ...]


def without_cache(config: RunConfig) -> RunConfig:
    """The config with nothing kept on the disk: a reference that would be scored ahead is scored live."""
    reference = config.reference
    if reference.name == "cached":
        reference = replace(reference, name="path" if reference.path else "auto")
    return replace(config, cache=None, reference=reference)


def try_step(config: RunConfig, accelerator: Accelerator, adapter: Adapter, data: RunData) -> Trial:
    """The starting checks, then the gradient of step 0. Raises RuntimeError if a check fails, UserError if
    the disk cannot take the rows that the run will keep."""
    paths = Paths.of(config, adapter, choose(config))
    folder, config = config.cache, without_cache(config)
    console = Console(data.world, progress=False, quiet=True)
    engine, encoder, _ = build_engine(config, accelerator, data.world, adapter, data, console)
    state = {k: v.to(data.world.device) for k, v in engine.objective.initial_state().items()}
    starting_checks(engine, encoder, data, config, console)

    began = time.perf_counter()
    (items,) = data.loader(adapter, config).steps(0, 1)
    micros = micro_batches(engine, encoder, items, config.train)
    loaded = time.perf_counter()
    encoded = [one for micro in micros for one in micro.encoded]
    if folder is not None and any(row.key is not None for one in encoded for row in one.rows):
        rows = TensorCache(Path(folder) / "rows")

        def tell(line: str) -> None:  # nothing is kept here
            console.note(f"a run's {line}")

        check_space(data, config.train, tell, rows, encoded, paths)
    result = compute_gradients(engine, micros, dict(state), 0)
    trainable = [p for p in adapter.policy.parameters() if p.requires_grad]
    gradients = [p.grad for p in trainable if p.grad is not None]
    norm = float(nn.utils.get_total_norm(gradients))
    done = time.perf_counter()

    means = Means()
    for metrics in result.metrics:
        means.add(metrics)
    read = means.read(data.world)
    for parameter in trainable:
        parameter.grad = None
    return Trial(
        samples=sum(len(micro.items) for micro in micros),
        loss=float(result.loss),
        expected_loss=_expected(engine, config, micros, state),
        reward_margin=read.get("reward/margin"),
        gradient_norm=norm,
        trainable=sum(p.numel() for p in trainable),
        weights=sum(p.numel() for p in adapter.policy.parameters()),
        peak_bytes=_peak(data.world.device),
        optimizer_bytes=sum(2 * p.numel() * p.element_size() for p in trainable),
        load_seconds=loaded - began,
        step_seconds=done - loaded,
        notes=tuple(console.take_notes()),
    )


@torch.no_grad()
def _expected(engine: Engine, config: RunConfig, micros: Sequence[Micro], state: State) -> float | None:
    """The objective's own value where the policy's scores are those of the reference."""
    roles = engine.objective.roles
    if "reference" not in roles or choose(config) not in DERIVED:
        return None
    if not set(roles["policy"]) <= set(roles["reference"]):
        return None
    with evaluating(engine.adapter.policy):
        parts = [{"reference": score_all(engine, micro)["reference"]} for micro in micros]
    weight = torch.cat([micro.weight for micro in micros])
    if engine.batch_coupled and len(parts) > 1:
        labels = collate_labels([item for micro in micros for item in micro.items], engine.world.device)
        groups = [(join_scores(parts, [len(micro.items) for micro in micros]), labels)]
    else:
        groups = [(part, dict(micro.labels)) for part, micro in zip(parts, micros, strict=True)]
    losses = []
    for part, labels in groups:
        equal: Scores = {"policy": {role: part["reference"][role] for role in roles["policy"]}, **part}
        losses.append(apply_objective(engine, equal, labels, dict(state), engine.world.mean).loss)
    return float((torch.cat(losses) * weight).sum() / weight.sum())


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
