"""The order of samples: a pure function of (seed, sizes, weights, batch) and the position in the run.

Nothing is stored. Any step can be computed from its number alone, so resuming costs nothing and cannot drift,
and neither the number of processes nor that of loader workers changes which samples a step holds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from mmalign.types import UserError, derive_seed


@dataclass(frozen=True)
class Place:
    """One sample of the stream: its source, how often that source was walked before, its place in this walk
    and its index in the source."""

    source: int
    epoch: int
    rank: int
    index: int


@dataclass(frozen=True)
class Order:
    """An endless stream of samples, cut into steps of `batch` over all processes.

    One source: every epoch is a new permutation of its rows; steps run on across epochs, so no row is
    dropped. Several sources: every epoch has as many slots as all sources have rows, shared out by `weights`
    (shares of the samples drawn; None: by size), and each source walks its own permutations in its slots.

    `processes` and `rank` choose this process's share of each step: every `processes`-th sample.
    """

    seed: int
    sizes: tuple[int, ...]
    batch: int
    weights: tuple[float, ...] | None = None
    processes: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            place = f"[{self.sizes.index(min(self.sizes))}]" if len(self.sizes) > 1 else ""
            raise UserError(f"data{place}: no row can be used, and every source needs at least one")
        if self.batch < self.processes:
            raise UserError(f"train.batch {self.batch} is smaller than the {self.processes} processes")
        if self.batch > self.rows:
            raise UserError(
                f"train.batch {self.batch} is larger than the data ({self.rows} rows); lower it or add rows"
            )
        if self.weights is not None:
            if len(self.weights) != len(self.sizes):
                raise UserError(f"data: {len(self.weights)} weights for {len(self.sizes)} sources")
            if any(not math.isfinite(weight) or weight <= 0 for weight in self.weights):
                raise UserError(f"data: weights must be above 0 and finite, got {list(self.weights)}")
        empty = [place for place, slots in enumerate(self.slots) if slots == 0]
        if empty:
            raise UserError(f"data[{empty[0]}]: its weight is too small to be drawn once in {self.rows} rows")

    @property
    def rows(self) -> int:
        """Slots of one epoch: the rows of all sources together."""
        return sum(self.sizes)

    @property
    def slots(self) -> tuple[int, ...]:
        """How many slots of an epoch each source fills (largest remainders)."""
        weights = self.sizes if self.weights is None else self.weights
        exact = [self.rows * weight / sum(weights) for weight in weights]
        slots = [math.floor(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda place: (slots[place] - exact[place], place))
        for place in by_remainder[: self.rows - sum(slots)]:
            slots[place] += 1
        return tuple(slots)

    def step(self, step: int) -> list[Place]:
        """This process's samples of one step (0-based)."""
        first = step * self.batch
        return [self.place(first + offset) for offset in range(self.rank, self.batch, self.processes)]

    def place(self, position: int) -> Place:
        """The sample at one position of the endless stream over all processes."""
        epoch, slot = divmod(position, self.rows)
        if len(self.sizes) == 1:
            return self._walk(0, epoch, slot)
        sources, counts = _mix(derive_seed(self.seed, epoch, "", "mix"), self.slots)
        source = int(sources[slot])
        drawn = epoch * self.slots[source] + int(counts[slot])
        return self._walk(source, *divmod(drawn, self.sizes[source]))

    def _walk(self, source: int, epoch: int, rank: int) -> Place:
        return Place(source, epoch, rank, int(self._permutation(source, epoch)[rank]))

    def _permutation(self, source: int, epoch: int) -> torch.Tensor:
        name = "" if len(self.sizes) == 1 else str(source)
        return _permutation(derive_seed(self.seed, epoch, name, "order"), self.sizes[source])

    def partners(self, place: Place, fits: Callable[[int], bool], redraw: bool, count: int = 1) -> list[int]:
        """Indices of the samples of the same source that follow `place` in its walk and for which
        `fits(index)` holds, never the sample itself; `count` of them, or all there are. Each is taken before
        the next is asked about.

        With `redraw` the walk is that of the epoch, without it one fixed cycle. Raises UserError for a source
        of one row.
        """
        size = self.sizes[place.source]
        if size < 2:
            raise UserError("data: a partner for every row needs a source with at least two rows")
        walk, rank = self._permutation(place.source, place.epoch), place.rank
        if not redraw:
            seed = derive_seed(self.seed, 0, str(place.source), "partner")
            walk, rank = _permutation(seed, size), int(_inverse(seed, size)[place.index])
        following = (int(walk[(rank + offset) % size]) for offset in range(1, size))
        return list(itertools.islice((index for index in following if fits(index)), count))


@lru_cache(maxsize=16)
def _permutation(seed: int, size: int) -> torch.Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=4)
def _inverse(seed: int, size: int) -> torch.Tensor:
    return torch.argsort(_permutation(seed, size))


@lru_cache(maxsize=4)
def _mix(seed: int, slots: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The source of every slot of an epoch, and how many slots of that source came before in this epoch."""
    plain = torch.repeat_interleave(torch.arange(len(slots)), torch.tensor(slots))
    sources = plain[_permutation(seed, len(plain))]
    counts = torch.zeros_like(sources)
    for source, number in enumerate(slots):
        counts[sources == source] = torch.arange(number)
    return sources, counts
