"""What the cache of a run will take on the disk, told and checked before most of it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmalign.config import Train
from mmalign.data._cache import TensorCache
from mmalign.data._paths import File
from mmalign.training.rows import RunData
from mmalign.types import Part, Prepared, UserError

_BLOCK = 4096  # a file takes whole blocks of the disk
_HEADER = 400  # bytes of an entry beside its tensors


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

    def line(self, cache: TensorCache) -> str:
        """The estimate in words, and what the disk has."""
        size, free = _mb(self.size), _mb(cache.free())
        return f"cache: about {size} for {self.rows:,} rows in {cache.folder}, {free} free"


def check_space(
    data: RunData,
    train: Train,
    say: Callable[[str], None],
    cache: TensorCache,
    encoded: Sequence[Prepared],
) -> None:
    """Say what all samples of a run will take, going by the first `encoded`. Raises UserError if the disk
    cannot take it; what the folder holds already is taken for a part of it."""
    estimate = Estimate.of(encoded, Planned.of(data, train))
    say(estimate.line(cache))
    if estimate.size > cache.free() and estimate.size > cache.free() + cache.used():
        raise UserError(
            f"cache {str(cache.folder)!r}: {estimate.rows:,} rows take about {_mb(estimate.size)}, and only "
            f"{_mb(cache.free())} are free; name a folder on a larger disk, or set cache: null, "
            "by which rows are encoded again where memory cannot hold them"
        )


def _on_disk(tensors: Iterable[Tensor]) -> int:
    size = _HEADER + sum(value.numel() * value.element_size() for value in tensors)
    return -(-size // _BLOCK) * _BLOCK


def _mb(size: int) -> str:
    return f"{size / 1e6:,.{0 if size >= 10e6 else 2}f} MB"
