"""The folder of a build: a record, one part per finished prompt, and at the end all pairs in one file.

A part appears whole or not at all, after the media that its rows name. So a build that was killed goes on
with the prompts that have no part, and those that have one are as they were.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.builders import _left_out, _media
from mmalign.builders._output import RECORD
from mmalign.training import _files
from mmalign.types import UserError

FORMAT = 1
PAIRS = "pairs.jsonl"
AS_BEFORE = "kept as they were: "
"""A count that begins so is of rows that are there, with the answer that they had."""
_PARTS = "parts"

Sift = Callable[[Iterable[Mapping[str, Any]]], Mapping[str, str]]
"""Which of all rows of a build are left out after all, by id, each with the reason."""


@dataclass(frozen=True)
class Store:
    """A build's output folder."""

    folder: Path

    def read(self) -> dict[str, Any] | None:
        """The record; None if there is none yet. Raises UserError if the file is none."""
        path = self.folder / RECORD
        if not path.exists():
            return None
        try:
            tree = _files.read_json(path)
            if tree["format"] != FORMAT:
                raise ValueError(f"its format is {tree['format']!r}, this version reads {FORMAT}")
            return dict(tree)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a build's record ({error}); choose another output") from error

    def begin(self, config: str, record: Mapping[str, Any]) -> None:
        """Write config and record before the first sample."""
        _files.replace_bytes(self.folder / "config.yaml", config.encode())
        for name in (_PARTS, _media.FOLDER):  # after the config, by which the folder is known as a build's
            (self.folder / name).mkdir(exist_ok=True)
        self._record({**record, "status": "running"})

    def missing(self, count: int) -> list[int]:
        """Numbers of the prompts without a part, of `count` in all."""
        return [number for number in range(count) if not self._part(number).exists()]

    def add(
        self, number: int, rows: Sequence[Mapping[str, Any]], counts: Mapping[str, int], broken: str | None
    ) -> None:
        """Write the part of one prompt; its media must be there. `broken` says why its row cannot be used."""
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
        _files.sync(self.folder / _media.FOLDER)
        part = {"rows": lines, "counts": dict(counts)} | ({} if broken is None else {"broken": broken})
        _files.replace_bytes(self._part(number), _files.json_bytes(part))

    def finish(self, count: int, record: Mapping[str, Any], sift: Sift = lambda _: {}) -> dict[str, Any]:
        """Join the parts in the order of the prompts, but for rows that `sift` leaves out; returns the
        finished record. A crash on the way leaves the parts, and joining them again gives the same files."""
        out = sift(self._rows(count))
        kept: Counter[str] = Counter({"pairs": 0, "prompts with pairs": 0})
        dropped: Counter[str] = Counter()
        stand: Counter[str] = Counter()
        used: set[str] = set()
        skipped: list[str] = []
        fresh, target = self.folder / f".{PAIRS}.tmp", self.folder / PAIRS
        with fresh.open("wb") as stream:
            for number in range(count):
                part = _files.read_json(self._part(number))
                counts = Counter(part["counts"])
                skipped += [part["broken"]] if "broken" in part else []
                stay = 0
                for line in part["rows"]:
                    row = json.loads(line)
                    if row["id"] in out:
                        counts[out[row["id"]]] += 1
                        continue
                    stay += 1
                    used.update(_named(row))
                    stream.write(line.encode() + b"\n")
                before = Counter({name: counts.pop(name) for name in [*counts] if name.startswith(AS_BEFORE)})
                dropped += _left_out.of_prompt(counts, stay)
                stand += before
                kept["pairs"] += stay
                kept["prompts with pairs"] += bool(stay)
            stream.flush()
            os.fsync(stream.fileno())
        _files.rename(fresh, target)
        _media.sweep(self.folder, used)
        sums = _left_out.in_all(dropped)
        done = {**record, "kept": dict(kept), "left_out": dict(dropped), "left_out_in_all": sums}
        if stand:
            done["as_before"] = {name.removeprefix(AS_BEFORE): count for name, count in stand.items()}
        done |= {"skipped": skipped, "status": "finished"}
        self._record(done)
        self.clear()
        return done

    def _rows(self, count: int) -> Iterator[dict[str, Any]]:
        """Every row of the parts, one part in memory at a time."""
        for number in range(count):
            yield from map(json.loads, _files.read_json(self._part(number))["rows"])

    def clear(self) -> None:
        """Remove the parts; the pairs are in one file now."""
        if (self.folder / _PARTS).exists():
            _files.remove_tree(self.folder / _PARTS)

    def _part(self, number: int) -> Path:
        return self.folder / _PARTS / f"{number:06d}.json"

    def _record(self, tree: Mapping[str, Any]) -> None:
        _files.replace_bytes(self.folder / RECORD, _files.json_bytes({"format": FORMAT, **tree}))


def _named(value: Any) -> list[str]:
    """Names of media files anywhere in a row."""
    if isinstance(value, str):
        return [value] if value.startswith(f"{_media.FOLDER}/") else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [name for one in inner for name in _named(one)]
