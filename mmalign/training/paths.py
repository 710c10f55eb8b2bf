"""Noised latents found by inversion: asked of the source that leads, and kept where it never changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmalign.adapters._transfer import sent
from mmalign.data._cache import TensorCache
from mmalign.data._row_cache import MEMORY_BYTES
from mmalign.training.encoding import row_digest
from mmalign.types import Batch, Draw, Inversion, Prepared, Row, derive_seed

if TYPE_CHECKING:
    from mmalign.training.step import Engine, Micro

_KEPT = ("path_start", "path_led", "path_level", "path_guidance")

AdmitPaths = Callable[[Sequence[Prepared]], None]


def keeps_paths(how: Inversion, reference: str) -> bool:
    """True if whole paths are led by a source that never changes."""
    return how.whole and how.source != "policy" and reference != "ema"


class PathCache:
    """Whole paths of a reference that never changes, one entry per row and inversion."""

    def __init__(self, folder: str | None, fingerprint: str, admit: AdmitPaths | None = None) -> None:
        """Without a folder paths are kept in memory, as many as encoded rows may take there. With one,
        `admit(encoded)` sees the first samples whose paths are missing, before these are found, and may raise
        UserError."""
        self._cache = None if folder is None else TensorCache(Path(folder))
        self._memory: dict[str, dict[str, Tensor]] = {}
        self._held = 0
        self._fingerprint = fingerprint
        self._admit = None if folder is None else admit

    def ask(self, encoded: Sequence[Prepared]) -> None:
        """Once, before the first path is found."""
        if self._admit is not None:
            self._admit(encoded)
        self._admit = None

    def _key(self, row: Row, inversion: Inversion) -> str:
        return f"{self._fingerprint}-{inversion.steps}-{inversion.guidance:g}-{row_digest(row)}"

    def get(self, row: Row, inversion: Inversion) -> dict[str, Tensor] | None:
        """The row's path, on the CPU."""
        key = self._key(row, inversion)
        return self._memory.get(key) if self._cache is None else self._cache.get(key)

    def put(self, row: Row, inversion: Inversion, path: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep a row's path, if there is room for it; on the CPU."""
        entry = {name: path[name].detach().cpu().contiguous() for name in _KEPT}
        if self._cache is not None:
            self._cache.put(self._key(row, inversion), entry)
            return entry
        size = sum(value.numel() * value.element_size() for value in entry.values())
        if self._held + size <= MEMORY_BYTES:
            # cloned: a part of a batch would keep all of the batch
            self._memory[self._key(row, inversion)] = {name: value.clone() for name, value in entry.items()}
            self._held += size
        return entry


def inverted(engine: Engine, micro: Micro, batch: Batch, draw: Draw, seeds: Sequence[int]) -> Draw:
    """The draw with what the objective's inversion adds to it, for the rows of the batch."""
    how = engine.objective.inversion
    assert how is not None
    if not how.whole:
        return {**draw, **_lead(engine, batch, draw, how, seeds)}
    if engine.paths is None:
        found = _lead(engine, batch, draw, how, seeds)
    else:
        found = _kept(engine.paths, engine, micro, batch, how)
    pick = _pick(how, seeds)[batch.row_sample].to(found["path_led"].device, non_blocking=True)
    return {**draw, **found, "path_pick": pick}


@torch.no_grad()
def _lead(engine: Engine, batch: Batch, draw: Draw, how: Inversion, seeds: Sequence[int]) -> Draw:
    found: Draw = engine.scorer(batch, draw, engine.needs, how.source, how, seeds)
    return found


def _kept(paths: PathCache, engine: Engine, micro: Micro, batch: Batch, how: Inversion) -> dict[str, Tensor]:
    """Paths of all rows, those that are not kept yet found now. They depend on no draw."""
    rows = _rows(micro.encoded, batch)
    entries = [paths.get(row, how) for row in rows]
    missing = {s for s, entry in zip(batch.row_sample.tolist(), entries, strict=True) if entry is None}
    if missing:
        some = [micro.encoded[index] for index in sorted(missing)]
        paths.ask(some)
        small = engine.adapter.collate(some, batch.roles)
        seeds = [0] * len(some)
        found = _lead(engine, small, engine.adapter.draw(small, seeds), how, seeds)
        fresh = {
            id(row): paths.put(row, how, {name: found[name][place] for name in _KEPT})
            for place, row in enumerate(_rows(some, small))
        }
        entries = [fresh[id(row)] if one is None else one for row, one in zip(rows, entries, strict=True)]
    known = [entry for entry in entries if entry is not None]
    device = engine.world.device
    found = {name: torch.stack([entry[name] for entry in known]) for name in _KEPT}
    return {name: value if name == "path_guidance" else sent(value, device) for name, value in found.items()}


def _rows(encoded: Sequence[Prepared], batch: Batch) -> list[Row]:
    """The encoded rows of a batch, in its order."""
    places = zip(batch.row_role.tolist(), batch.row_sample.tolist(), batch.row_slot.tolist(), strict=True)
    return [
        row
        for role, sample, slot in places
        for row in encoded[sample].rows
        if row.role == batch.roles[role] and row.slot == slot
    ]


def _pick(how: Inversion, seeds: Sequence[int]) -> Tensor:
    """Places of the scored steps, ascending, [S, P] long: all of them, or `count` at random per sample."""
    if how.count is None:
        return torch.arange(how.steps).expand(len(seeds), -1)
    streams = [torch.Generator().manual_seed(derive_seed(seed, 0, "", "steps")) for seed in seeds]
    return torch.stack([torch.randperm(how.steps, generator=s)[: how.count].sort().values for s in streams])


def pieces(draw: Draw, size: int | None) -> list[Draw]:
    """A draw of a path divided into draws of at most `size` steps each."""
    if size is None or "path_pick" not in draw:
        return [draw]
    return [{**draw, "path_pick": part} for part in draw["path_pick"].split(size, dim=1)]
