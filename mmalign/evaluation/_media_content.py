"""What the media of questions hold, as digests, so that an answer is known to be about the same picture.

A file is read once: its digest is kept with its size, its times and its place on the disk, and counts as long
as these stay. The digest of a folder of frames is that of its frames in their order.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from mmalign.data._digest import digest
from mmalign.data._frame_folders import frame_names
from mmalign.data._paths import File, RatedFile, folder_of, locate
from mmalign.data._video_parts import CutFile
from mmalign.types import UserError

_SETTLED_NS = 2_000_000_000
"""A file that was written so lately may be written again within the same tick of its clock."""


class MediaContent:
    """Digests of media files, remembered in the JSON file `kept`, {path: [state, digest]}."""

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._known: dict[str, list[str]] = _read(kept)
        self._seen: dict[tuple[str, str], str | None] = {}
        self._changed = False

    def shown(self, file: File) -> tuple[Any, ...]:
        """What a question shows by a file: its content, wherever it lies, and which part of it counts. What
        cannot be read goes by its name; that is told when the question is asked."""
        place = file.root, file.name
        if place not in self._seen:
            try:
                self._seen[place] = self._digest(file)
            except (OSError, UserError):
                self._seen[place] = None
        found = self._seen[place]
        part = (file.start, file.end) if isinstance(file, CutFile) else ()
        rate = file.rate if isinstance(file, CutFile | RatedFile) else None
        return found is None, found or file.name, rate, *part

    def save(self) -> None:
        """Keep what was read since the last time."""
        if self._changed:
            fresh = self._kept.with_name(f".{self._kept.name}.tmp")
            fresh.write_text(json.dumps(self._known), encoding="utf-8")
            os.replace(fresh, self._kept)
            self._changed = False

    def _digest(self, file: File) -> str:
        folder = folder_of(file)
        names = [file.name] if folder is None else [f"{file.name}/{one}" for one in frame_names(folder)]
        paths = [locate(File(file.root, name)) for name in names]
        states = [path.stat() for path in paths]
        state = digest([(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev) for s in states])
        path = str(paths[0] if folder is None else folder)
        known = self._known.get(path)
        if known is not None and known[0] == state:
            return known[1]
        read = [_content(path) for path in paths]
        found = read[0] if folder is None else digest(read)
        if all(time.time_ns() - s.st_mtime_ns > _SETTLED_NS for s in states):
            self._known[path] = [state, found]
            self._changed = True
        return found


def _content(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _read(kept: Path) -> dict[str, list[str]]:
    """What was kept; nothing where that cannot be read: everything is then read again."""
    try:
        tree = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(tree, dict):
        return {}
    return {
        path: one
        for path, one in tree.items()
        if isinstance(one, list) and len(one) == 2 and all(isinstance(word, str) for word in one)
    }
