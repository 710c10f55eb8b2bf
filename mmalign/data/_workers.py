"""Numbered jobs, run here or in worker processes, with results in order and without hanging.

Results travel as bytes through a pipe: tensors in shared memory would need one file handle each and a large
/dev/shm, which containers often lack. A worker that dies or does not answer ends the run with an error that
names what it was working on.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mmalign.types import UserError

T = TypeVar("T")


class LoaderError(RuntimeError):
    """A worker process died, hung, or met an error that is not the data's fault."""


def run_jobs(
    job: Callable[[int], T],
    numbers: Iterable[int],
    workers: int,
    timeout_s: float,
    describe: Callable[[int], str],
) -> Iterator[T]:
    """Yield `job(n)` for every n, in order; `numbers` may be endless.

    With workers > 0 the jobs run in that many processes, and a job that takes longer than `timeout_s`
    seconds is an error; in this process (workers == 0) no time limit holds. `describe(n)` names the job in
    errors. A UserError of a job is raised here as it is; anything else becomes a LoaderError.
    """
    if workers == 0:
        yield from (job(number) for number in numbers)
        return
    pending, order = itertools.tee(numbers)
    loader = DataLoader(
        _Jobs(job),
        batch_size=None,
        sampler=_Numbers(order),
        num_workers=workers,
        timeout=timeout_s,
        generator=torch.Generator().manual_seed(0),  # else starting workers would draw from the global one
        worker_init_fn=_start_worker,
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
    )
    before = {child.pid for child in multiprocessing.active_children()}
    results = iter(loader)
    assert isinstance(results, _MultiProcessingDataLoaderIter)
    try:
        for number in pending:
            try:
                answer = next(results)
            except StopIteration:
                return
            except RuntimeError as error:
                raise LoaderError(_explain(error, describe(number), timeout_s)) from None
            yield _open(answer, describe(number))
    finally:
        # Explicit, since an exception on its way holds a reference that would put it off. A worker that is
        # still busy afterwards ignores the polite signal too (see _start_worker) and is ended by force.
        results._shutdown_workers()
        for child in multiprocessing.active_children():
            if child.pid not in before:
                child.kill()


def _explain(error: RuntimeError, what: str, timeout_s: float) -> str:
    reason = str(error).splitlines()[0]
    if "timed out" in reason:
        return f"data workers gave no answer within {timeout_s:g} s while preparing {what}"
    return (
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
    def __init__(self, job: Callable[[int], Any]) -> None:
        self.job = job

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


def _start_worker(worker: int) -> None:
    """A stop signal to the whole process group is for the main process: it finishes its step and saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
