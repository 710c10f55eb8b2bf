"""Ranks of one job as processes of their own, forked from a server that has loaded the libraries once."""

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

_LIBRARIES = [
    "peft",
    "transformers",
    "diffusers",
    "mmalign.adapters.diffusion",
    "mmalign.adapters.reward_head",
    "mmalign.adapters.text",
    "mmalign.adapters.vlm",
    "mmalign.builders._run",
    "mmalign.cli",
    "mmalign.training.run",
]


def in_ranks(
    action: Callable[..., object], *given: Any, folder: Path, size: int = 2, timeout: float = 300
) -> tuple[int, str]:
    """`action(*given)` on every rank at once, as torchrun would start them: the exit code of the first that
    failed, or 0, and what all printed. `folder` takes their output; an action that returns an int exits with
    it. When one fails the others are killed; 124 if they take longer than `timeout` seconds.

    `action` and `given` must be picklable, so that a function is one of a module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    with pytest.MonkeyPatch.context() as patch:  # no device that forks cannot use
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
        environment = dict(os.environ)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # on a port that is free
    said = [folder / f"rank-{rank}.txt" for rank in range(size)]
    processes = []
    for rank in range(size):
        own = environment | _variables(rank, size, store.port)
        arguments = (own, os.getcwd(), str(said[rank]), action, given)
        processes.append(context.Process(target=_rank, args=arguments))
        processes[-1].start()
    try:
        code = _finished(processes, time.monotonic() + timeout)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return code, "".join(path.read_text() for path in said if path.exists())


def _variables(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process of itself."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    agent = {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
    return {name: str(value) for name, value in (places | store | agent).items()}


def _rank(
    environment: dict[str, str], cwd: str, said: str, action: Callable[..., object], given: Sequence[Any]
) -> None:
    """One process: it leaves without the clean-up of the libraries, which a fork may not be able to do."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = open(file, "w", buffering=1)  # noqa: SIM115 - stays open to the end
    try:
        result = action(*given)
        code = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    os._exit(code)


def _finished(processes: Sequence[ForkServerProcess], deadline: float) -> int:
    """The exit code of the whole, once all have ended, one has failed or time is up."""
    while alive := [process for process in processes if process.exitcode is None]:
        if any(process.exitcode for process in processes) or time.monotonic() > deadline:
            break
        connection.wait([process.sentinel for process in alive], timeout=1)
    failed = [process.exitcode for process in processes if process.exitcode]
    return failed[0] if failed else 124 if alive else 0
