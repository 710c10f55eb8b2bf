"""Faults to inject: crashes and failures at a chosen file operation, damaged files, small file limits."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from mmalign.training import _files
from mmalign.training.world import World

Moment = Literal["before", "torn"]

TEARABLE = ("write_bytes", "write_tensors", "remove_tree")  # the others happen whole or not at all
OPERATIONS = ("write_bytes", "write_tensors", "sync", "rename", "make_folder", "remove_tree")
ALONE = World(0, 1, torch.device("cpu"))


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a forked child and return its exit status (negative for a signal); 99 if it raised."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def watch(patch: pytest.MonkeyPatch, seen: Callable[[str, Path, Callable[[], None]], None]) -> None:
    """Have `seen(name, path, do)` stand in for every file operation; `do()` performs it."""

    def wrap(name: str, original: Callable[..., None]) -> Callable[..., None]:
        return lambda path, *rest: seen(name, path, lambda: original(path, *rest))

    for name in OPERATIONS:
        patch.setattr(_files, name, wrap(name, vars(_files)[name]))


def record_operations(patch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by the name of each file operation."""
    names: list[str] = []

    def seen(name: str, path: Path, do: Callable[[], None]) -> None:
        names.append(name)
        do()

    watch(patch, seen)
    return names


def crash_at(patch: pytest.MonkeyPatch, k: int, moment: Moment) -> None:
    """End the process as kill -9 would at the k-th file operation (from 0): before it, or, "torn", with half
    of what it writes or removes done. After an operation is before the next one."""
    count = 0

    def seen(name: str, path: Path, do: Callable[[], None]) -> None:
        nonlocal count
        count += 1
        if count <= k:
            return do()
        if moment == "torn" and name == "remove_tree":
            sorted(path.iterdir())[0].unlink()
        elif moment == "torn":
            do()
            truncate(path, 0.5)
        os._exit(137)

    watch(patch, seen)


def no_space_at(patch: pytest.MonkeyPatch, operation: str, name: str) -> None:
    """Make one kind of operation fail, as on a full disk, for every path whose name contains `name`."""

    def seen(kind: str, path: Path, do: Callable[[], None]) -> None:
        if kind == operation and name in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        do()

    watch(patch, seen)


def flip_byte(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x01
    path.write_bytes(data)


def truncate(path: Path, fraction: float) -> None:
    """Keep only the first part of a file."""
    os.truncate(path, int(path.stat().st_size * fraction))


def limit_file_size(num_bytes: int) -> None:
    """From now on this process cannot write a larger file; only for a forked child."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


@dataclass
class _Meeting:
    """Where the threads of one `ThreadWorld` exchange values."""

    barrier: threading.Barrier
    values: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class ThreadWorld(World):
    """A world whose processes are threads of this one."""

    meeting: _Meeting = field(kw_only=True)

    def gather(self, value: Any) -> list[Any]:
        """Every thread's value, in rank order."""
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait()
        values = list(self.meeting.values)
        self.meeting.barrier.wait()
        return values

    def max(self, value: int) -> int:
        """Largest value of all threads."""
        return max(self.gather(value))


def on_threads(size: int, action: Callable[[World], Any]) -> list[Any]:
    """Run `action` on `size` ranks at once; each result is what it returned or the exception it raised."""
    meeting = _Meeting(threading.Barrier(size, timeout=20), [None] * size)
    results: list[Any] = [None] * size

    def work(rank: int) -> None:
        try:
            results[rank] = action(ThreadWorld(rank, size, torch.device("cpu"), meeting=meeting))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
