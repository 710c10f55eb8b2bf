"""Stopping on SIGTERM and SIGINT at a step boundary: the handlers set a flag, the loop asks for it.

A signal on one process stops all of them at the same step, because the flag is agreed on in `requested`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from mmalign.training.world import World

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def exit_code(signum: int) -> int:
    """The exit status shells use for a program ended by a signal: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + signum


class StopSignals:
    """Context manager: while it is open, SIGTERM and SIGINT only ask the run to stop.

    A second SIGINT ends the process at once. Handlers that others had installed from Python are called as
    well and put back on exit. Python allows handlers in the main thread only: elsewhere nothing is
    installed and `installed` is False. A child made by fork takes no part: SIGTERM ends it, SIGINT is left
    to its parent.
    """

    def __init__(self) -> None:
        self.installed = False
        self.received = 0  # the first signal's number
        self._interrupts = 0
        self._pid = os.getpid()
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._pid = os.getpid()
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
            self.installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.installed:
            for number, previous in self._previous.items():
                # None stands for a handler that was not installed from Python and cannot be put back
                signal.signal(number, signal.SIG_DFL if previous is None else previous)
            self.installed = False

    def requested(self, world: World) -> int:
        """The signal that asked any process to stop, or 0. Call it on all processes once a step."""
        return world.max(self.received)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            if signum == signal.SIGTERM:
                os._exit(exit_code(signum))
            return
        if signum == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                os._exit(exit_code(signum))  # now: no clean-up, whatever the process is busy with
        self.received = self.received or signum
        previous = self._previous.get(signum)
        # the default one would raise KeyboardInterrupt, which is what the flag replaces
        if callable(previous) and previous is not signal.default_int_handler:
            previous(signum, frame)
