"""Stop signals: flags only, agreed on by all processes, handlers put back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType

import pytest
import torch
import torch.distributed as dist
from checkpoint_states import found_state, small
from faults import ALONE, in_child, on_threads, watch

from mmalign.training.checkpoint import latest, save
from mmalign.training.signals import SIGNALS, StopSignals, exit_code
from mmalign.training.world import World


@pytest.fixture(autouse=True)
def handlers_return() -> Iterator[None]:
    """Every test leaves the process's handlers as they were."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_a_request_not_an_exception(signum: int, code: int) -> None:
    with StopSignals() as signals:
        assert signals.installed and signals.requested(ALONE) == 0
        send(signum)
        assert signals.requested(ALONE) == signum
        assert exit_code(signals.requested(ALONE)) == code
    assert not signals.installed


def test_waiting_goes_on_after_a_signal() -> None:
    with StopSignals() as signals:
        timer = threading.Timer(0.05, send, [signal.SIGTERM])
        timer.start()
        began = time.monotonic()
        time.sleep(0.2)  # as a step or a loader would be waiting
        assert time.monotonic() - began >= 0.2
        assert signals.requested(ALONE) == signal.SIGTERM
        timer.join()


@pytest.mark.parametrize("operation", ["write_tensors", "write_bytes", "sync", "rename"])
def test_a_signal_during_a_save_lets_it_finish(tmp_path: Path, operation: str) -> None:
    def seen(kind: str, path: Path, do: Callable[[], None]) -> None:
        do()
        if kind == operation:
            send(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, StopSignals() as signals:
        watch(patch, seen)
        save(tmp_path, small(1), ALONE, keep=1)
        assert signals.requested(ALONE) == signal.SIGTERM
    assert latest(tmp_path).broken == ()
    assert found_state(tmp_path).progress.step == 1


def test_a_second_interrupt_exits_now() -> None:
    def child() -> None:
        with StopSignals():
            send(signal.SIGINT)
            send(signal.SIGTERM)
            send(signal.SIGTERM)
            print("still here")
            try:
                send(signal.SIGINT)
            finally:
                os._exit(1)

    assert in_child(child) == 130


def test_handlers_of_others_are_called_and_put_back() -> None:
    calls: list[int] = []

    def theirs(signum: int, frame: FrameType | None) -> None:
        calls.append(signum)

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with StopSignals() as signals:
            send(signal.SIGTERM)
            assert calls == [signal.SIGTERM] and signals.received == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is theirs
        with pytest.raises(KeyError), StopSignals():
            raise KeyError("an error inside puts them back as well")
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_installs_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work(world: World) -> tuple[bool, bool]:
        with StopSignals() as signals:
            return signals.installed, signal.getsignal(signal.SIGTERM) is before

    assert on_threads(1, work) == [(False, True)]


def test_forked_workers_die_of_sigterm_and_leave_sigint_to_the_parent() -> None:
    def worker() -> None:
        send(signal.SIGINT)
        send(signal.SIGINT)
        send(signal.SIGTERM)

    with StopSignals() as signals:
        assert in_child(worker) == 143
        assert signals.requested(ALONE) == 0


@pytest.mark.multiprocess
@pytest.mark.parametrize("signalled", [(0,), (1,), (0, 1)])
def test_all_processes_stop_at_the_same_step(tmp_path: Path, signalled: tuple[int, ...]) -> None:
    def rank(number: int) -> None:
        store = f"file://{tmp_path}/store"
        dist.init_process_group("gloo", store, timedelta(seconds=30), world_size=2, rank=number)
        world = World(number, 2, torch.device("cpu"))
        assert dist.get_world_size() == 2
        with StopSignals() as signals:
            for step in range(1, 200):
                if step == 3 + number and number in signalled:
                    send(signal.SIGTERM)
                time.sleep(0.005 * (1 + number))
                if signum := signals.requested(world):
                    (tmp_path / f"rank-{number}").write_text(str(step))
                    os._exit(exit_code(signum))

    children = []
    for number in (0, 1):
        child = os.fork()
        if child == 0:
            try:
                rank(number)
            finally:
                os._exit(99)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [143, 143]
    assert [(tmp_path / f"rank-{number}").read_text() for number in (0, 1)] == [str(3 + min(signalled))] * 2
