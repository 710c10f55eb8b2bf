"""Frozen encoders run once per row: what they gave is kept on disk, or in memory without a cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmalign.data._cache import TensorCache
from mmalign.data._row_cache import Known, RowCache
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


TOGETHER = 64  # samples encoded and stored before the next are begun: what a killed run has at most to redo

Admit = Callable[[TensorCache, Sequence[Prepared]], None]


class Encoder:
    """`Adapter.encode` behind a cache keyed by content and the encoders' fingerprint.

    Rows are encoded as they come and stored at once. Samples that the loader found encoded in `cache` are
    passed on. `admit(files, encoded)` sees the first samples that were not in the folder, before they are
    stored, and may raise UserError.
    """

    def __init__(self, adapter: Adapter, folder: str | None, admit: Admit | None = None) -> None:
        self.cache = RowCache(folder, adapter.fingerprint())
        self._adapter, self._admit = adapter, admit

    def __call__(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Encoded samples in the same order. Rows without a key are encoded every time."""
        known: Known = {}
        done: list[Prepared] = []
        for start in range(0, len(prepared), TOGETHER):
            part = prepared[start : start + TOGETHER]
            fresh = iter(self._encoded([one for one in part if not one.encoded], known))
            done += [one if one.encoded else next(fresh) for one in part]
        return done

    def _encoded(self, prepared: Sequence[Prepared], known: Known) -> list[Prepared]:
        held = [[self.cache.load(row, known) for row in one.rows] for one in prepared]
        missing = [
            replace(one, rows=tuple(r for r, data in zip(one.rows, found, strict=True) if data is None))
            for one, found in zip(prepared, held, strict=True)
        ]
        work = [one for one in missing if one.rows]
        fresh = iter([row for one in (self._adapter.encode(work) if work else []) for row in one.rows])
        whole = [
            replace(
                one,
                rows=tuple(
                    replace(row, data=next(fresh).data if data is None else data)
                    for row, data in zip(one.rows, found, strict=True)
                ),
            )
            for one, found in zip(prepared, held, strict=True)
        ]
        if any(row.key is not None for one in work for row in one.rows):
            self._ask(whole)
        done = []
        for one, found in zip(whole, held, strict=True):
            pairs = zip(one.rows, found, strict=True)
            rows = tuple(self.cache.store(row, known) if data is None else row for row, data in pairs)
            done.append(replace(one, rows=rows))
            self.cache.index(done[-1])
        return done

    def _ask(self, encoded: Sequence[Prepared]) -> None:
        """Once, before anything is written."""
        if self._admit is not None and self.cache.files is not None:
            self._admit(self.cache.files, encoded)
        self._admit = None
