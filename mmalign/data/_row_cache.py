"""Encoded rows kept by content, and samples found again by the content of their files, without decoding.

An entry is a file of tensors, or a record in memory without a folder. A row is the entry of its own and those
of the parts that it shares with other rows. An index entry names the rows of a sample by everything the
sample was read from, so that what is encoded already need not be decoded and resized only to learn its key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor

from mmalign.data._cache import TensorCache
from mmalign.data._digest import digest
from mmalign.data._frame_folders import frames_content
from mmalign.data._paths import File, read_file
from mmalign.types import Example, Message, Part, PreferenceSample, Prepared, Row, UserError

MEMORY_BYTES = 4 << 30  # kept without a folder; rows beyond it are encoded anew every time

_READING = f"1/{PIL.__version__}"  # change the number when decoding gives other pixels for the same file

Entry = Mapping[str, Tensor]
Known = dict[str, Entry]  # entries met so far: equal ones are one set of tensors, whichever rows name them


class RowCache:
    """Rows under `prefix`, the fingerprint of what encodes them, in a folder or in memory."""

    def __init__(self, folder: str | None, prefix: str) -> None:
        self.files = None if folder is None else TensorCache(Path(folder))
        self._prefix = prefix
        self._memory: Known = {}
        self._counted: set[int] = set()  # addresses of kept tensors: rows share what they have in common
        self._held = 0

    # ------------------------------------------------------------ rows

    def load(self, row: Row, known: Known) -> dict[str, Tensor] | None:
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

    def store(self, row: Row, known: Known) -> Row:
        """Keep what was computed for a row. What is there already stays, and the row gets it."""
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

    def _part(self, part: str, names: Sequence[str], known: Known) -> dict[str, Tensor] | None:
        """Tensors of a part by the names that a row has for them; None too if there are not as many."""
        entry = self._load(self._part_key(part), known)
        if entry is None or len(entry) != len(names):
            return None
        return {name: entry[str(place)] for place, name in enumerate(names)}

    def _load(self, key: str, known: Known) -> Entry | None:
        if key not in known:
            found = self._memory.get(key) if self.files is None else self.files.get(key)
            if found is None:
                return None
            known[key] = found
        return known[key]

    def _store(self, key: str, entry: Entry, known: Known) -> None:
        known[key] = entry
        if self.files is None:
            self._remember(key, entry)
        else:
            self.files.put(key, entry)

    def _remember(self, key: str, entry: Entry) -> None:
        new = {v.data_ptr(): v.numel() * v.element_size() for v in entry.values()}
        new = {address: size for address, size in new.items() if address not in self._counted}
        if key not in self._memory and self._held + sum(new.values()) <= MEMORY_BYTES:
            self._memory[key] = entry
            self._counted |= new.keys()
            self._held += sum(new.values())

    # ------------------------------------------------------------ samples

    def find(self, sample_id: str, content: str, known: Known) -> Prepared | None:
        """The encoded rows of a sample of this content, if all are there. Only a folder is looked into."""
        entry = None if self.files is None else self.files.get(self._index_key(content))
        if entry is None:
            return None
        rows = []
        for role, slot, key, shares in json.loads(entry["rows"].numpy().tobytes()):
            row = Row(role, slot, {}, key, {part: tuple(names) for part, names in shares.items()})
            data = self.load(row, known)
            if data is None:
                return None
            rows.append(replace(row, data=data))
        return Prepared(sample_id, tuple(rows), content, encoded=True)

    def index(self, sample: Prepared) -> None:
        """Note which rows a sample of known content has, once they are stored."""
        if self.files is None or sample.content is None or any(row.key is None for row in sample.rows):
            return
        key = self._index_key(sample.content)
        if not self.files.holds(key):
            rows = [[row.role, row.slot, row.key, dict(row.shares)] for row in sample.rows]
            self.files.put(key, {"rows": torch.tensor(list(json.dumps(rows).encode()), dtype=torch.uint8)})

    def _index_key(self, content: str) -> str:
        return f"{self._prefix}-sample-{content}"


class _Unknown(Exception):
    """A value whose content is not known without decoding it."""


def content_of(sample: PreferenceSample, roles: Sequence[str]) -> str | None:
    """The digest of all a sample is read from, files included, and of the roles that are prepared of it; None
    where a file cannot be read or a medium is given as something else than a file, bytes or an array."""
    try:
        examples = {role: [_example(example) for example in group] for role, group in sample.examples.items()}
        return digest(_READING, list(roles), examples, _whole(sample.labels))
    except (_Unknown, UserError):
        return None


def _example(example: Example) -> Example:
    turns = tuple(Message(turn.speaker, tuple(map(_part, turn.parts))) for turn in example.prompt)
    return Example(turns, tuple(map(_part, example.response)), _whole(example.labels))


def _part(part: Part) -> Part:
    return Part(part.kind, _whole(part.data))


def _whole(value: Any) -> Any:
    """The value with the bytes of files in place of their names."""
    if isinstance(value, File):
        return frames_content(value) or read_file(value)
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if value is None or isinstance(value, str | bytes | bool | int | float | np.ndarray):
        return value
    raise _Unknown
