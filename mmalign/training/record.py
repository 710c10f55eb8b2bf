"""What a run leaves to be read later: run.json, metrics.jsonl, and the lock that keeps a second run out.

Nothing here writes times, and one path alone: two runs of one config from one folder leave the same files.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch

from mmalign import __version__
from mmalign.training import _files
from mmalign.training._agree import on_main
from mmalign.training.world import World
from mmalign.types import UserError

FORMAT = 1
Status = Literal["running", "stopped", "finished", "failed"]

_LIBRARIES = ("torch", "transformers", "diffusers", "peft", "accelerate", "safetensors")


# ---------------------------------------------------------------- run.json


@dataclass(frozen=True)
class RunRecord:
    """What produced a run. `data` holds the data's hash and its counts; `notes` every choice and fallback
    that the user should know of, in words; `resumed_at` the steps at which it was taken up again;
    `started_in` the folder that relative paths of its config start from."""

    config_hash: str
    seed: int
    processes: int
    device: str
    threads: int
    versions: Mapping[str, str]
    git: Mapping[str, Any] | None
    data: Mapping[str, Any]
    notes: Sequence[str] = field(default_factory=list)
    skipped: Mapping[str, int] = field(default_factory=dict)
    resumed_at: Sequence[int] = field(default_factory=list)
    status: Status = "running"
    step: int = 0
    started_in: str = ""

    def write(self, folder: Path) -> None:
        """Write run.json into the run folder at once: a reader never sees half of it."""
        tree = {"format": FORMAT, **asdict(self)}
        tree |= {"notes": list(self.notes), "resumed_at": list(self.resumed_at)}
        _files.replace_bytes(folder / "run.json", _files.json_bytes(tree))

    @staticmethod
    def read(folder: Path) -> RunRecord | None:
        """The record of a run folder, None if it has none; UserError if the file is not a record."""
        path = folder / "run.json"
        if not path.exists():
            return None
        try:
            tree = _files.read_json(path)
            if tree.pop("format") != FORMAT:
                raise ValueError(f"it is not of format {FORMAT}")
            return RunRecord(**tree)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a run record ({error}); choose another output folder") from error

    def differences(self, other: RunRecord) -> list[str]:
        """What a resume must have in common and has not, one line each: "seed: 1, now 2"."""
        before, after = self._compared(), other._compared()
        return [
            f"{name}: {before.get(name, 'absent')}, now {after.get(name, 'absent')}"
            for name in before | after
            if before.get(name) != after.get(name)
        ]

    def _compared(self) -> dict[str, Any]:
        own = {"config": self.config_hash, "seed": self.seed, "data": self.data.get("hash")}
        own |= {"processes": self.processes, "device": self.device, "threads": self.threads}
        return own | dict(self.versions)

    def resumed(self, old: RunRecord, step: int) -> RunRecord:
        """This record as the continuation of `old` from `step`: earlier notes are kept, in order."""
        notes = [*old.notes, *(note for note in self.notes if note not in old.notes)]
        return replace(self, notes=notes, resumed_at=[*old.resumed_at, step], step=step)


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that decide a run's numbers, where installed."""
    found = {"python": platform.python_version(), "mmalign": __version__}
    return found | {name: number for name in _LIBRARIES if (number := _installed(name)) is not None}


@cache  # reading it takes longer than all else that a checkpoint says of itself
def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def code_state() -> dict[str, Any] | None:
    """`git_state` of this package as it was when first asked for in this process; not to be changed."""
    return git_state()


def git_state(file: Path = Path(__file__)) -> dict[str, Any] | None:
    """Short commit of the repository that tracks `file`, and whether it has uncommitted changes; None where
    the file is not under git, so that an installed package never reports the user's own repository."""
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file, "rev-parse", "--short=12", "HEAD")
    changes = _git(file, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(file: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def device_name(device: torch.device) -> str:
    """The name of the hardware: "cpu x86_64", "NVIDIA H200"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}"


# ---------------------------------------------------------------- metrics.jsonl

Value = float | int | str | None


class MetricsLog:
    """Appends one JSON line per call to metrics.jsonl. Only rank 0 opens it.

    Opening it at step n drops all lines after step n and a torn last line, so that a resumed run leaves the
    file that an uninterrupted one would have left. At step 0 the run is fresh and the file starts empty.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        self._cut(step)
        self._file = self.path.open("ab")

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Append one line and hand it to the system. JSON knows no NaN: non-finite numbers are written as the
        strings "nan", "inf" and "-inf", which `float()` reads."""
        assert "step" not in values, "the step is an argument"
        line = {"step": step} | {name: _plain(value) for name, value in values.items()}
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Force all lines to the disk; before a checkpoint, which else could outlive the lines before it."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Force all lines to the disk and close."""
        self.sync()
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut(self, step: int) -> None:
        if not self.path.exists():
            return
        whole = self.path.read_bytes()
        *lines, _torn = whole.split(b"\n") if step else [b""]
        kept = [line for row, line in enumerate(lines, 1) if self._step_of(row, line) <= step]
        content = b"".join(line + b"\n" for line in kept)
        if content != whole:
            _files.replace_bytes(self.path, content)

    def _step_of(self, row: int, line: bytes) -> int:
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path} row {row}: not a metrics line ({error}); remove that row"
            ) from error


def _plain(value: Value) -> Value:
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


# ---------------------------------------------------------------- the lock


class OutputLock:
    """Context manager that keeps a second run out of an output folder; UserError names the other's process.

    Rank 0 holds a system lock on `.lock`, which ends with the process however that ends, so that a killed run
    leaves no obstacle. Fails on file systems that have no locks.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self.folder = folder
        self.world = world
        self._handle: int | None = None

    def __enter__(self) -> OutputLock:
        on_main(self.world, self._acquire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            self._forget()

    def _acquire(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output: {self.folder} cannot be made: {error.strerror}") from error
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            text = os.read(handle, 32).decode("ascii", "replace").strip()
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UserError(f"output: process {text} is writing to {self.folder}; choose another") from None
        except OSError as error:
            os.close(handle)
            raise UserError(f"output: {self.folder} is on a file system without locks ({error})") from error
        self._handle = handle
        os.register_at_fork(after_in_child=self._forget)  # or a child would hold the lock after our death
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)

    def _forget(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
