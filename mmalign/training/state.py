"""Where a run stands: counters, metric sums, log and record; and all of it in and out of checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from mmalign import config as configs
from mmalign.config import RunConfig
from mmalign.training import checkpoint, record
from mmalign.training._files import replace_bytes
from mmalign.training._state import CheckpointState, Progress, restore_tensors, trainable_tensors
from mmalign.training.console import Console
from mmalign.training.metrics import Means
from mmalign.training.reference import MovingReference
from mmalign.training.skips import SkipLog
from mmalign.training.step import StepResult
from mmalign.training.trackers import Trackers
from mmalign.training.world import World
from mmalign.types import Item, State


@dataclass
class Position:
    """Changes with every step. Sums of metrics belong to it, so that a resumed run logs what an
    uninterrupted one would have logged."""

    seed: int
    config_hash: str
    world: World
    step: int = 0
    samples_seen: int = 0
    bad_in_row: int = 0
    objective: State = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    means: Means = field(default_factory=Means)
    start_errors: Mapping[str, Any] = field(default_factory=dict)  # of held-out pairs at fixed noise levels
    run_record: record.RunRecord | None = None
    folder: Path = Path()
    metrics_log: record.MetricsLog | None = None
    trackers: Trackers | None = None
    skips: SkipLog | None = None
    console: Console | None = None

    def open(self, folder: Path, config: RunConfig, data: Mapping[str, Any], notes: Sequence[str]) -> None:
        """Write config.yaml and run.json, open metrics.jsonl and start trackers, before the first step."""
        if not self.world.is_main:
            return
        self.folder = folder
        fresh = record.RunRecord(
            config_hash=self.config_hash,
            seed=self.seed,
            processes=self.world.size,
            device=record.device_name(self.world.device),
            threads=torch.get_num_threads(),
            versions=record.versions(),
            git=record.code_state(),
            data=data,
            notes=list(notes),
            skipped=dict(self.skipped),
            started_in=str(Path.cwd()),
        )
        old = record.RunRecord.read(folder) if self.step else None
        if old is not None:
            changed = [f"continued with another {line}" for line in fresh.differences(old)]
            fresh = replace(fresh, notes=[*fresh.notes, *changed]).resumed(old, self.step)
        self.run_record = fresh
        replace_bytes(folder / "config.yaml", configs.dump(config).encode())
        fresh.write(folder)
        self.metrics_log = record.MetricsLog(folder, self.step)
        if config.log.trackers:
            self.trackers = Trackers(config, folder, self.console)
            self.trackers.replay(self.metrics_log.path)

    def take(self, result: StepResult, norm: Tensor, lr: float) -> None:
        """A good step: its metrics count and the objective's state moves on."""
        self.objective = result.state
        self.bad_in_row = 0
        for metrics in result.metrics:
            self.means.add({name: value for name, value in metrics.items() if name != "loss"})
        if self.world.is_main:  # these are the same on every process
            device = result.loss.device
            self.means.add({"loss": result.loss[None], "grad_norm": norm.detach().to(device)[None]})
            self.means.add({"lr": torch.tensor([lr], device=device)})

    def refuse(self, items: Sequence[Item], result: StepResult, limit: int) -> str:
        """A step with NaN or inf: nothing changes but the counters. Returns the line that names it.

        Raises RuntimeError after `limit` such steps in a row.
        """
        ids = [name for part in self.world.gather([i.id for i in items]) for name in part]
        self.bad_in_row += 1
        self.skipped["steps with NaN or inf"] += 1
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        line = f"step {self.step + 1} skipped: loss or gradient is not finite (samples {shown})"
        if self.bad_in_row >= limit:
            raise RuntimeError(f"{line}; {limit} in a row: stopped, the last checkpoint is good")
        return line

    def advance(self, samples: int) -> None:
        """The step is over, whether it was taken or refused."""
        self.step += 1
        self.samples_seen += samples

    def report(self) -> dict[str, float]:
        """Write the means since the last report as one line of metrics.jsonl; on every process."""
        values = self.means.read(self.world)
        self.log(values)
        return values

    def log(self, values: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl and send it to the trackers."""
        if self.metrics_log is not None:
            self.metrics_log.write(self.step, dict(sorted(values.items())))
        if self.trackers is not None:
            self.trackers.write(self.step, values)

    def sync(self) -> None:
        """Force the log to the disk, before a checkpoint that counts on it."""
        if self.metrics_log is not None:
            self.metrics_log.sync()

    def __enter__(self) -> Position:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write how the run ended: finished, stopped by a signal, or failed."""
        if self.trackers is not None:
            self.trackers.close()
        if self.run_record is None or self.metrics_log is None:
            return
        status: record.Status = "finished" if error is None else "failed"
        if isinstance(error, SystemExit):
            status = "stopped"
        if self.skips is not None and self.skips.late():
            self.skipped["rows that failed after their first check"] = self.skips.late()
        notes = [*self.run_record.notes, *(self.console.take_notes() if self.console else [])]
        ended = replace(
            self.run_record, status=status, step=self.step, skipped=dict(self.skipped), notes=notes
        )
        ended.write(self.folder)
        self.metrics_log.close()


def snapshot(
    position: Position,
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    moving: MovingReference | None = None,
) -> CheckpointState:
    """Everything a resume needs; called on every process."""
    extra = {"means": position.means.totals(position.world), "bad_in_row": position.bad_in_row}
    if position.start_errors:
        extra["start_errors"] = position.start_errors
    progress = Progress(
        step=position.step,
        samples_seen=position.samples_seen,
        seed=position.seed,
        config_hash=position.config_hash,
        world_size=position.world.size,
        versions=record.versions(),
        schedule=schedule.state_dict(),
        skipped=dict(position.skipped),
        extra=extra,
    )
    return CheckpointState(
        progress,
        trainable_tensors(policy),
        optimizer.state_dict(),
        dict(position.objective),
        {} if moving is None else moving.weights,
    )


def restore(
    found: checkpoint.Found,
    position: Position,
    policy: nn.Module,
    optimizer: Any,
    schedule: Any,
    moving: MovingReference | None = None,
) -> None:
    """Put a checkpoint's state back into the run."""
    state = checkpoint.load(found)
    restore_tensors(policy, state.model)
    if moving is not None:
        moving.restore(state.reference)
    optimizer.load_state_dict(state.optimizer)
    schedule.load_state_dict(dict(state.progress.schedule))
    device = position.world.device
    position.step = state.progress.step
    position.samples_seen = state.progress.samples_seen
    position.skipped = Counter(state.progress.skipped)
    position.bad_in_row = state.progress.extra["bad_in_row"]
    position.start_errors = state.progress.extra.get("start_errors", {})
    position.objective = {name: value.to(device) for name, value in state.objective.items()}
    if position.world.is_main:
        totals = {name: (pair[0], pair[1]) for name, pair in state.progress.extra["means"].items()}
        position.means.restore(totals, device)
