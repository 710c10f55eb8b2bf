"""Frozen encoders run once per row: what they gave is kept on disk, or in memory without a cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mmalign.data._cache import TensorCache
from mmalign.types import Adapter, Prepared, Row


def row_digest(row: Row) -> str:
    """Content hash of a row: its own key, or a hash of its tensors."""
    if row.key is not None:
        return row.key
    digest = hashlib.sha256()
    for name, value in sorted(row.data.items()):
        assert isinstance(value, Tensor), f"a row without a key must hold tensors only, {name} is none"
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


MEMORY_BYTES = 4 << 30  # kept without a cache folder; rows beyond it are encoded anew every time


class Encoder:
    """`Adapter.encode` behind a cache keyed by the row's content and the encoders' fingerprint."""

    def __init__(self, adapter: Adapter, folder: str | None) -> None:
        self._adapter = adapter
        self._cache = None if folder is None else TensorCache(Path(folder))
        self._memory: dict[str, dict[str, Tensor]] = {}
        self._counted: set[int] = set()  # addresses of kept tensors: rows share what they have in common
        self._held = 0
        self._prefix = adapter.fingerprint()

    def __call__(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Encoded samples in the same order. Rows without a key are encoded every time."""
        held = [[None if r.key is None else self._load(r.key) for r in one.rows] for one in prepared]
        missing = [
            replace(one, rows=tuple(r for r, data in zip(one.rows, found, strict=True) if data is None))
            for one, found in zip(prepared, held, strict=True)
        ]
        work = [one for one in missing if one.rows]
        fresh = iter(self._adapter.encode(work) if work else [])
        return [
            self._merged(one, found, next(fresh).rows if left.rows else ())
            for one, found, left in zip(prepared, held, missing, strict=True)
        ]

    def _merged(
        self, sample: Prepared, found: Sequence[dict[str, Tensor] | None], fresh: Sequence[Row]
    ) -> Prepared:
        """What was kept and what was computed now, in the order of the rows; the latter is kept, too."""
        left, rows = iter(fresh), []
        for row, data in zip(sample.rows, found, strict=True):
            if data is None:
                data = next(left).data
                if row.key is not None:
                    self._store(row.key, data)
            rows.append(replace(row, data=data))
        return replace(sample, rows=tuple(rows))

    def _load(self, key: str) -> dict[str, Tensor] | None:
        full = f"{self._prefix}-{key}"
        return self._memory.get(full) if self._cache is None else self._cache.get(full)

    def _store(self, key: str, data: dict[str, Tensor]) -> None:
        full = f"{self._prefix}-{key}"
        if self._cache is not None:
            self._cache.put(full, data)
            return
        new = {v.data_ptr(): v.numel() * v.element_size() for v in data.values()}
        new = {address: size for address, size in new.items() if address not in self._counted}
        if full not in self._memory and self._held + sum(new.values()) <= MEMORY_BYTES:
            self._memory[full] = data
            self._counted |= new.keys()
            self._held += sum(new.values())
