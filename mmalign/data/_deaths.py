"""When the death of a worker process may interrupt this one: while it waits for that worker, and only then.

torch's own handler of SIGCHLD raises in the main thread wherever that happens to be: in the middle of a
training step, or while the workers are still being started, where nobody expects it and the other workers
would be left behind.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

# part of torch's public loader; asked here so that its handler is set before ours, which stands in front
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler as _set_torch_handler


class WorkerDied(RuntimeError):
    """A worker ended while this process waited for it."""


class _Watch:
    """What the handler knows: how many loaders are open, and the workers that are waited for right now."""

    def __init__(self) -> None:
        self.open = 0
        self.awaited: tuple[int, ...] = ()
        self.before: Any = None

    def on_death(self, number: int, frame: FrameType | None) -> None:
        if any(map(_fell, self.awaited)):
            raise WorkerDied("a worker ended")
        if not self.open and callable(self.before):  # a loader of somebody else's
            self.before(number, frame)


_watch = _Watch()


def _fell(process: int) -> bool:
    """Whether a child has ended otherwise than by returning; it is left for its owner to collect."""
    try:
        found = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # collected, so its exit code was seen
        return False
    return found is not None and (found.si_code, found.si_status) != (os.CLD_EXITED, 0)


def _watched() -> bool:
    """Signals reach the main thread alone; elsewhere, and where there is no SIGCHLD, time limits must do."""
    return sys.platform != "win32" and threading.current_thread() is threading.main_thread()


@contextmanager
def deferred() -> Iterator[None]:
    """Within, workers may die unnoticed until they are `awaited`."""
    if not _watched():
        yield
        return
    if signal.getsignal(signal.SIGCHLD) != _watch.on_death:
        _set_torch_handler()
        _watch.before = signal.signal(signal.SIGCHLD, _watch.on_death)
    _watch.open += 1
    try:
        yield
    finally:
        _watch.open -= 1


@contextmanager
def awaited(processes: Sequence[Any]) -> Iterator[None]:
    """Within, the death of one of the processes, which may lie behind already, raises WorkerDied."""
    if not _watched():
        yield
        return
    outer, _watch.awaited = _watch.awaited, tuple(process.pid for process in processes)
    try:
        if any(process.exitcode for process in processes):
            raise WorkerDied("a worker ended")
        yield
    finally:
        _watch.awaited = outer
