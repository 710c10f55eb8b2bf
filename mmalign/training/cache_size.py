"""What the cache of a run will take on the disk, told and checked before most of it is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmalign.config import RunConfig, Train
from mmalign.data._cache import TensorCache
from mmalign.data._paths import File
from mmalign.training.paths import keeps_paths
from mmalign.training.rows import RunData
from mmalign.types import Adapter, Part, Prepared, UserError

_BLOCK = 4096  # a file takes whole blocks of the disk
_HEADER = 400  # bytes of an entry beside its tensors
_FLOAT, _LONG = 4, 8  # bytes of a number


@dataclass(frozen=True)
class Planned:
    """The samples that a run is going to encode, and how many different prompts they have."""

    samples: int
    prompts: int

    @classmethod
    def of(cls, data: RunData, train: Train) -> Planned:
        """Training samples as far as the steps go, and all that are held out; different prompts are counted
        over the first response of each."""
        pools = [*data.pools, *data.heldout]
        firsts = [next(iter(one.examples.values()))[0] for pool in pools for one in pool.samples]
        prompts = {
            tuple((turn.speaker, *map(_content, turn.parts)) for turn in first.prompt) for first in firsts
        }
        unseen = max(0, data.rows - data.num_steps(train) * train.batch)
        return cls(len(firsts) - unseen, len(prompts))


def _content(part: Part) -> Hashable:
    """Pictures that are given as values, and not as texts or files, count as different ones."""
    return part.data if isinstance(part.data, str | File) else id(part.data)


@dataclass(frozen=True)
class Estimate:
    """Bytes on the disk for a number of rows."""

    size: int
    rows: int

    @classmethod
    def of(cls, encoded: Sequence[Prepared], planned: Planned) -> Estimate:
        """For all samples, going by those already encoded, of which there is one at least.

        A part that several rows of a sample share belongs to its prompt: it counts once for every different
        prompt. Other parts count for every sample, though some may turn out to be shared.
        """
        alone = common = rows = 0
        for sample in encoded:
            kept = [row for row in sample.rows if row.key is not None]
            rows += len(kept)
            users = Counter(part for row in kept for part in row.shares)
            sizes = {part: [row.data[n] for n in names] for row in kept for part, names in row.shares.items()}
            for part, tensors in sizes.items():
                if users[part] > 1:
                    common += _on_disk(tensors)
                else:
                    alone += _on_disk(tensors)
            for row in kept:
                shared = {name for names in row.shares.values() for name in names}
                alone += _on_disk([value for name, value in row.data.items() if name not in shared])
        size = (alone * planned.samples + common * min(planned.prompts, planned.samples)) / len(encoded)
        return cls(round(size), round(rows * planned.samples / len(encoded)))

    def line(self, cache: TensorCache, what: str = "rows") -> str:
        """The estimate in words, and what the disk has."""
        size, free = _mb(self.size), _mb(cache.free())
        return f"cache: about {size} for {self.rows:,} {what} in {cache.folder}, {free} free"


@dataclass
class Paths:
    """Inverted paths of `steps` steps, one for every row, that a run keeps in the folder of `cache`;
    `shape_of` gives the shape of the latents of a sample's rows."""

    cache: TensorCache
    steps: int
    shape_of: Callable[[Prepared], tuple[int, ...]]
    checked: bool = False

    @classmethod
    def of(cls, config: RunConfig, adapter: Adapter, reference: str) -> Paths | None:
        """Those of a run with this reference; None where it keeps none on the disk."""
        how = config.objective.inversion
        if how is None or not keeps_paths(how, reference) or config.cache is None:
            return None
        return cls(TensorCache(Path(config.cache) / "paths"), how.steps, adapter.shape_of)

    def estimate(self, encoded: Sequence[Prepared], planned: Planned) -> Estimate:
        """For all samples, going by those encoded, of which there is one at least: a path holds clean latents
        and one prediction per step in float32, the level of every step, and the strength of guidance."""
        size = rows = 0
        for sample in encoded:
            latents = math.prod(self.shape_of(sample))
            path = _FLOAT * latents * (self.steps + 1) + _LONG * self.steps + _FLOAT
            size += len(sample.rows) * _blocks(path)
            rows += len(sample.rows)
        share = planned.samples / len(encoded)
        return Estimate(round(size * share), round(rows * share))


def check_space(
    data: RunData,
    train: Train,
    say: Callable[[str], None],
    cache: TensorCache,
    encoded: Sequence[Prepared],
    paths: Paths | None = None,
) -> None:
    """Say what all samples of a run will take, going by the first `encoded`, and what their paths will.
    Raises UserError if the disk cannot take both; what the folders hold already is taken for a part of it."""
    planned = Planned.of(data, train)
    estimate = Estimate.of(encoded, planned)
    say(estimate.line(cache))
    size, told = estimate.size, f"{estimate.rows:,} rows take about {_mb(estimate.size)}"
    folders = [cache]
    if paths is not None:
        more, paths.checked = paths.estimate(encoded, planned), True
        say(more.line(paths.cache, "inverted paths"))
        size, told = size + more.size, f"{told} and {more.rows:,} inverted paths {_mb(more.size)}"
        folders.append(paths.cache)
    _require(folders, size, told, "rows are encoded")


def check_paths(
    data: RunData, train: Train, say: Callable[[str], None], paths: Paths, encoded: Sequence[Prepared]
) -> None:
    """The same of paths alone, unless they have been checked together with rows."""
    if paths.checked:
        return
    estimate = paths.estimate(encoded, Planned.of(data, train))
    say(estimate.line(paths.cache, "inverted paths"))
    told = f"{estimate.rows:,} inverted paths take about {_mb(estimate.size)}"
    _require([paths.cache], estimate.size, told, "paths are found")


def _require(folders: Sequence[TensorCache], size: int, told: str, again: str) -> None:
    """Raise UserError if `size` bytes do not fit into folders of one disk beside what is not theirs."""
    free = folders[0].free()
    if size > free and size > free + sum(folder.used() for folder in folders):
        raise UserError(
            f"cache {str(folders[0].folder)!r}: {told}, and only "
            f"{_mb(free)} are free; name a folder on a larger disk, or set cache: null, "
            f"by which {again} again where memory cannot hold them"
        )


def _on_disk(tensors: Iterable[Tensor]) -> int:
    return _blocks(sum(value.numel() * value.element_size() for value in tensors))


def _blocks(size: int) -> int:
    return -(-(_HEADER + size) // _BLOCK) * _BLOCK


def _mb(size: int) -> str:
    return f"{size / 1e6:,.{0 if size >= 10e6 else 2}f} MB"
