"""Numbered jobs, run here or in worker processes, with results in order and without hanging.

Results travel as bytes through a pipe: tensors in shared memory would need one file handle each and a large
/dev/shm, which containers often lack. A worker that dies or does not answer ends the run with an error that
names what it was working on. Work that may hang or crash inside a library, as the decoding of videos may, is
put under `guarded`: then the operating system ends the worker in time, and the error names the row.
"""

from __future__ import annotations

import gc
import io
import itertools
import multiprocessing
import pickle
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mmalign.data._deaths import awaited, deferred
from mmalign.types import UserError

T = TypeVar("T")


_NOTE = struct.Struct("<?dH900s")  # busy, seconds it may take, length of the text, key and text
# How a decoder ends its process when it fails; being killed is something else, most often for memory.
_CRASHES = frozenset({"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS"})


class LoaderError(RuntimeError):
    """A worker process died, hung, or met an error that is not the data's fault."""


class LostWorker(UserError):
    """A row under `guarded` hung or crashed the worker; `key` is what the row was guarded by."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


@contextmanager
def guarded(key: str, what: str, seconds: float) -> Iterator[None]:
    """In a worker: end this process by a signal if the block takes longer than `seconds`, and leave a note
    for the error. The signal also stops a library that never gives control back to Python. In the main
    process, and where the system has no such timer, no limit of its own holds.
    """
    worker = get_worker_info()
    if worker is None or not isinstance(worker.dataset, _Jobs):
        yield
        return
    note = worker.dataset.notes[worker.id]
    text = f"{key}\n{what}".encode()[:900]
    _NOTE.pack_into(note, 0, True, seconds, len(text), text)
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, 0)
        _NOTE.pack_into(note, 0, False, 0.0, 0, b"")


def run_jobs(
    job: Callable[[int], T],
    numbers: Iterable[int],
    workers: int,
    timeout_s: float,
    describe: Callable[[int], str],
) -> Generator[T, None, None]:
    """Yield `job(n)` for every n, in order; `numbers` may be endless.

    With workers > 0 the jobs run in that many processes, and a job that takes longer than `timeout_s`
    seconds is an error; in this process (workers == 0) no time limit holds. `describe(n)` names the job in
    errors. A UserError of a job is raised here as it is; work that is lost under `guarded` becomes a
    LostWorker, anything else a LoaderError.
    """
    if workers == 0:
        yield from (job(number) for number in numbers)
        return
    pending, order = itertools.tee(numbers)
    jobs = _Jobs(job, tuple(RawArray("c", _NOTE.size) for _ in range(workers)))
    loader = DataLoader(
        jobs,
        batch_size=None,
        sampler=_Numbers(order),
        num_workers=workers,
        prefetch_factor=1,  # a job is a whole step, and its pixels may be gigabytes
        timeout=timeout_s,
        generator=torch.Generator().manual_seed(0),  # else starting workers would draw from the global one
        worker_init_fn=partial(_start_worker, gc.isenabled()),
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
    )
    before = {child.pid for child in multiprocessing.active_children()}
    with deferred():
        results = _forked(loader)
        try:
            for number in pending:
                try:
                    with awaited(results._workers):
                        answer = next(results)
                except StopIteration:
                    return
                except RuntimeError as error:
                    exits = [process.exitcode for process in results._workers]
                    raise _failure(error, describe(number), timeout_s, exits, jobs.notes) from None
                yield _open(answer, describe(number))
        finally:
            # Explicit, since an exception on its way holds a reference that would put it off. A worker still
            # busy afterwards ignores the polite signal too (see _start_worker) and is ended by force.
            results._shutdown_workers()
            for child in multiprocessing.active_children():
                if child.pid not in before:
                    child.kill()


def _forked(loader: DataLoader[Any]) -> _MultiProcessingDataLoaderIter:
    """Start the workers. What this process has left to the garbage collector is kept from theirs: a library's
    object that waits for its threads to end would wait for ever where they never ran. Nothing is collected
    until a worker has put it aside; here it stays garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        results = iter(loader)
    finally:
        if collects:
            gc.enable()
    assert isinstance(results, _MultiProcessingDataLoaderIter)
    return results


class _Note(NamedTuple):
    key: str
    what: str
    seconds: float


def _read_note(note: Any) -> _Note | None:
    """What a worker was guarded for when it was lost; None if it was at something else."""
    busy, seconds, length, text = _NOTE.unpack_from(note)
    if not busy:
        return None
    key, _, what = text[:length].decode("utf-8", "replace").partition("\n")
    return _Note(key, what, seconds)


def _failure(
    error: RuntimeError, what: str, timeout_s: float, exits: list[int | None], notes: tuple[Any, ...]
) -> Exception:
    """The error for workers that ended with the given exit codes (None: still running), or do not answer."""
    reason = str(error).splitlines()[0]
    for code, shared in zip(exits, notes, strict=True):
        note = _read_note(shared)
        if code is None or note is None:
            continue
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if name == "SIGALRM":
            message = (
                f"gave no answer within {note.seconds:g} s; leave the row out or raise model.frames.timeout_s"
            )
            return LostWorker(f"{note.what}: {message}", note.key)
        if code > 0 or name in _CRASHES:
            message = f"crashed the decoder ({name}); leave the row out or convert the file"
            return LostWorker(f"{note.what}: {message}", note.key)
        what = note.what
    if "timed out" in reason:
        return LoaderError(f"data workers gave no answer within {timeout_s:g} s while preparing {what}")
    return LoaderError(
        f"a data worker died while preparing {what} ({reason}); "
        "if the machine ran out of memory, use fewer workers or a smaller batch"
    )


def _open(answer: tuple[str, bytes | str], what: str) -> Any:
    kind, value = answer
    if isinstance(value, bytes):
        return pickle.loads(value)  # bytes our own worker has just made
    if kind == "user":
        raise UserError(value)
    raise LoaderError(f"preparing {what} failed in a data worker:\n{value}")


class _Pickler(pickle.Pickler):
    """Sends CPU tensors as plain bytes: the library's own way, a checksummed archive each, is slow here."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not torch.Tensor or value.device.type != "cpu" or value.layout != torch.strided:
            return NotImplemented
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return _tensor, (bytearray(flat.numpy()), value.dtype, tuple(value.shape))


def _tensor(data: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


class _Jobs(Dataset[tuple[str, "bytes | str"]]):
    def __init__(self, job: Callable[[int], Any], notes: tuple[Any, ...]) -> None:
        self.job, self.notes = job, notes

    def __getitem__(self, number: int) -> tuple[str, bytes | str]:
        try:
            stream = io.BytesIO()
            _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(self.job(number))
            return "done", stream.getvalue()
        except UserError as error:
            return "user", str(error)
        except Exception:  # sent on with its traceback: the loader would lose the message's first line
            return "bug", traceback.format_exc()


class _Numbers(Sampler[int]):
    def __init__(self, numbers: Iterator[int]) -> None:
        self.numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return self.numbers


def _start_worker(collects: bool, worker: int) -> None:
    """What was there before is never collected here, and what comes is if the main process `collects`. A stop
    signal to the whole process group is for the main process: it finishes its step and saves."""
    gc.freeze()
    if collects:
        gc.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it is busy with
