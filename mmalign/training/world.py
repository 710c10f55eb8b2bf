"""The processes of a run and the few collectives the loop uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among all. With one process every collective is the identity."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the process that writes files and prints."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Element-wise sum over processes; a new tensor."""
        total = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def max(self, value: int) -> int:
        """Largest of one int per process."""
        if self.size == 1:
            return value
        held = torch.tensor(value, device=self.device)
        dist.all_reduce(held, op=dist.ReduceOp.MAX)
        return int(held)

    def gather(self, value: Any) -> list[Any]:
        """One picklable value of every process, in rank order, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for every process."""
        if self.size > 1:
            dist.barrier()

    def mean(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """Mean of [S] values over all processes, or of those marked; detached, NaN-free (0 if none are)."""
        kept = torch.ones_like(values, dtype=torch.bool) if where is None else where
        # not values[where]: the device would have to say how many there are
        picked = torch.where(kept, values.detach(), torch.zeros_like(values))
        sums = self.sum(torch.stack([picked.sum().double(), kept.sum().double()]))
        return (sums[0] / sums[1].clamp(min=1)).to(values.dtype)


def leave() -> None:
    """Close this process's connections to the others, if it has any."""
    if dist.is_initialized():
        dist.destroy_process_group()
