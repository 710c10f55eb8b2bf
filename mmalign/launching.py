"""Several processes of one command on this machine: started, waited for, and what they say when one fails."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from mmalign.types import UserError

_FAILURE = "MMALIGN_FAILURE_FILE"  # set for the processes: where the first to fail says why
_LAUNCHER = "MMALIGN_LAUNCHER_PID"  # set for them, too: who started them


def launch(args: Sequence[str], processes: int) -> None:
    """Run `train CONFIG ...` or `build CONFIG ...` in so many processes. Raises UserError for anything else
    and for a config that cannot run, and SystemExit with the exit code of the process that failed first,
    whose line is told once."""
    if args[:1] not in (["train"], ["build"]) or len(args) < 2:
        raise UserError("launch: write `mmalign launch --processes N train CONFIG [section.field=value ...]`")
    if processes < 1:
        raise UserError(f"launch --processes: must be 1 or more, got {processes}")
    _refuse_once(args, processes)
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    # its lines on processes that end are for those who debug it; ours have said why they do
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    command = ["--standalone", "--nproc-per-node", str(processes), "-m", "mmalign", *args]
    with tempfile.TemporaryDirectory() as folder:
        os.environ[_FAILURE] = str(Path(folder) / "failure")
        os.environ[_LAUNCHER] = str(os.getpid())
        try:
            run(get_args_parser().parse_args(command))
        except ChildFailedError as error:
            rank, first = error.get_first_failure()
            raise SystemExit(_told(os.environ[_FAILURE], rank, first.exitcode)) from error
        except SignalException as stop:
            raise SystemExit(128 + int(stop.sigval)) from stop
        finally:
            del os.environ[_FAILURE], os.environ[_LAUNCHER]


def _refuse_once(args: Sequence[str], processes: int) -> None:
    """Refuse a config that cannot run before every process does."""
    if args[0] == "build":
        from mmalign.builders import _config
        from mmalign.builders._output import check_output as check_folder

        check_folder(_config.load(args[1], args[2:], allow_code=True))
        return
    from mmalign import config as configs
    from mmalign.training.checks import check_config, check_output

    config = configs.load(args[1], args[2:], allow_code=True)
    check_config(config, processes)
    check_output(config)


def _told(path: str, rank: int, code: int) -> int:
    """The exit code of processes of which one failed, whose line is printed; `code`: its own, or minus the
    number of the signal that ended it, before it could say why."""
    text = Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
    own, _, line = text.partition(" ")
    if line:
        print(f"mmalign: {line}", file=sys.stderr)
        return int(own)
    if code >= 0:
        return code
    print(f"mmalign: process {rank} was ended by {signal.Signals(-code).name}", file=sys.stderr)
    return 128 - code


def follow_launcher(every_s: float = 1.0) -> None:
    """In a process of a launch: ask it to stop, as by SIGTERM, once who launched it is gone. Each such
    process is a session of its own: a signal that ends the launch with its group does not reach it."""
    if _LAUNCHER not in os.environ:
        return
    launcher = int(os.environ[_LAUNCHER])

    def follow() -> None:
        while os.getppid() == launcher:
            time.sleep(every_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="follow launcher", daemon=True).start()


def leave_to_launch(code: int, line: str) -> bool:
    """Hand exit code and line of a process that fails to who launched it; False if nobody did. The first to
    fail is heard: the others fail alike, or because of it."""
    if _FAILURE not in os.environ:
        return False
    with contextlib.suppress(FileExistsError), open(os.environ[_FAILURE], "x", encoding="utf-8") as file:
        file.write(f"{code} {line}")
    return True
