"""A step of ours, as the loop of `mmalign.training.run` takes it, in two halves that are timed together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from mmalign.config import RunConfig
from mmalign.training.console import Console
from mmalign.training.optim import make_schedule
from mmalign.training.rows import load_data
from mmalign.training.setup import build_engine, build_policy, micro_batches, start
from mmalign.training.state import Position
from mmalign.training.step import StepResult, compute_gradients
from mmalign.types import Item


class OurStep:
    """The parts of a run, and the items of its first `rows` rows (None: all), in the order of the file."""

    def __init__(self, config: RunConfig, rows: int | None = None) -> None:
        self.config = config
        self.accelerator, world = start()
        console = Console(world, progress=False, quiet=True)
        data = load_data(config, world, console)
        adapter = build_policy(config, world.device)
        data.admit(adapter, config, console)
        self.engine, self.encoder, self.optimizer = build_engine(
            config, self.accelerator, world, adapter, data, console
        )
        self.model: nn.Module = adapter.policy
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.schedule = make_schedule(self.optimizer, config.train)
        self.position = Position(config.seed, "", world)
        count = data.rows if rows is None else rows
        self.items = _in_order(data.loader(adapter, config).steps(0, count))
        self.result: StepResult | None = None

    def backward(self, pair: int) -> float:
        """Loss of one pair; its gradients are added to the adapter's."""
        micros = micro_batches(self.engine, self.encoder, [self.items[pair]], self.config.train)
        self.result = compute_gradients(self.engine, micros, self.position.objective, self.position.step)
        return float(self.result.loss)

    def update(self) -> None:
        """Clip, take the optimizer's step, clear gradients, keep the step's metrics."""
        assert self.result is not None
        norm = self.accelerator.clip_grad_norm_(self.trainable, self.config.train.clip or float("inf"))
        if not bool(torch.isfinite(norm + self.result.loss)):
            raise RuntimeError("loss or gradient is not finite")
        self.optimizer.step()
        self.position.take(self.result, norm, float(self.schedule.get_last_lr()[0]))
        self.optimizer.zero_grad()
        self.schedule.step()
        self.position.advance(1)


def _in_order(steps: Iterable[Sequence[Item]]) -> list[Item]:
    """Items of one each by the row of the file that they come from, as the peers have them."""
    by_row = {int(item.origin.split("row ")[1]): item for items in steps for item in items}
    return [by_row[row] for row in sorted(by_row)]
