"""Frozen encoders run once per row: what they gave is kept on disk, or in memory without a cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
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
TOGETHER = 64  # samples encoded and stored before the next are begun: what a killed run has at most to redo

Entry = Mapping[str, Tensor]
Admit = Callable[[TensorCache, Sequence[Prepared]], None]


class Encoder:
    """`Adapter.encode` behind a cache keyed by content and the encoders' fingerprint.

    Every part that a row shares is an entry of its own, and within a call one set of tensors, whichever rows
    name it; what is left of a row is the entry of the row. `admit(cache, encoded)` sees the first samples
    that were not in the folder, before they are stored, and may raise UserError.
    """

    def __init__(self, adapter: Adapter, folder: str | None, admit: Admit | None = None) -> None:
        self._adapter = adapter
        self._admit = admit
        self._cache = None if folder is None else TensorCache(Path(folder))
        self._memory: dict[str, Entry] = {}
        self._counted: set[int] = set()  # addresses of kept tensors: rows share what they have in common
        self._held = 0
        self._prefix = adapter.fingerprint()

    def __call__(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Encoded samples in the same order. Rows without a key are encoded every time."""
        known: dict[str, Entry] = {}
        done: list[Prepared] = []
        for start in range(0, len(prepared), TOGETHER):
            done += self._encoded(prepared[start : start + TOGETHER], known)
        return done

    def _encoded(self, prepared: Sequence[Prepared], known: dict[str, Entry]) -> list[Prepared]:
        held = [[self._kept(row, known) for row in one.rows] for one in prepared]
        missing = [
            replace(one, rows=tuple(r for r, data in zip(one.rows, found, strict=True) if data is None))
            for one, found in zip(prepared, held, strict=True)
        ]
        work = [one for one in missing if one.rows]
        fresh = iter([row for one in (self._adapter.encode(work) if work else []) for row in one.rows])
        done = [
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
            self._ask(done)
        return [
            replace(
                one,
                rows=tuple(
                    row if data is not None else self._keep(row, known)
                    for row, data in zip(one.rows, found, strict=True)
                ),
            )
            for one, found in zip(done, held, strict=True)
        ]

    def _ask(self, encoded: Sequence[Prepared]) -> None:
        """Once, before anything is written."""
        if self._admit is not None and self._cache is not None:
            self._admit(self._cache, encoded)
        self._admit = None

    def _kept(self, row: Row, known: dict[str, Entry]) -> dict[str, Tensor] | None:
        """All tensors of a row if each of its entries is there."""
        if row.key is None:
            return None
        own = self._load(self._row_key(row), known)
        if own is None:
            return None
        data = dict(own)
        for part, names in row.shares.items():
            found = self._part(part, names, known)
            if found is None or not data.keys().isdisjoint(names):
                del known[self._row_key(row)]  # written again with the rest
                return None
            data |= found
        return data

    def _keep(self, row: Row, known: dict[str, Entry]) -> Row:
        """Store what was computed for a row. What is there already stays, and the row gets it."""
        if row.key is None:
            return row
        own, whole = dict(row.data), dict(row.data)
        for part, names in row.shares.items():
            values = [own.pop(name) for name in names]
            found = self._part(part, names, known)
            if found is None:
                self._store(self._part_key(part), {str(i): value for i, value in enumerate(values)}, known)
            else:
                whole |= found
        if (before := known.get(self._row_key(row))) is not None:
            return replace(row, data=whole | dict(before))
        self._store(self._row_key(row), own, known)
        return replace(row, data=whole)

    def _row_key(self, row: Row) -> str:
        return f"{self._prefix}-{row.key}"

    def _part_key(self, part: str) -> str:
        return f"{self._prefix}-part-{part}"

    def _part(self, part: str, names: Sequence[str], known: dict[str, Entry]) -> dict[str, Tensor] | None:
        """Tensors of a part by the names that a row has for them; None too if there are not as many."""
        entry = self._load(self._part_key(part), known)
        if entry is None or len(entry) != len(names):
            return None
        return {name: entry[str(place)] for place, name in enumerate(names)}

    def _load(self, key: str, known: dict[str, Entry]) -> Entry | None:
        """An entry; `known` holds those that this call has met, so that equal ones are one set of tensors."""
        if key not in known:
            found = self._memory.get(key) if self._cache is None else self._cache.get(key)
            if found is None:
                return None
            known[key] = found
        return known[key]

    def _store(self, key: str, entry: Entry, known: dict[str, Entry]) -> None:
        known[key] = entry
        if self._cache is None:
            self._remember(key, entry)
        else:
            self._cache.put(key, entry)

    def _remember(self, key: str, entry: Entry) -> None:
        new = {v.data_ptr(): v.numel() * v.element_size() for v in entry.values()}
        new = {address: size for address, size in new.items() if address not in self._counted}
        if key not in self._memory and self._held + sum(new.values()) <= MEMORY_BYTES:
            self._memory[key] = entry
            self._counted |= new.keys()
            self._held += sum(new.values())
