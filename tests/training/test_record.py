"""run.json, metrics.jsonl and the lock on an output folder."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import ALONE, Moment, crash_at, in_child, on_threads, record_operations

from mmalign.training import record
from mmalign.training.record import MetricsLog, OutputLock, RunRecord, code_state, git_state, versions
from mmalign.types import UserError


def a_record(**changes: Any) -> RunRecord:
    plain = RunRecord(
        config_hash="c0",
        seed=1,
        processes=1,
        device="cpu x86_64",
        threads=1,
        versions={"torch": "2.0", "peft": "1.0"},
        git={"commit": "0123456789ab", "dirty": False},
        data={"hash": "d0", "pairs": 96, "responses": 192},
        notes=["reference: lora_off"],
    )
    return replace(plain, **changes)


# ---------------------------------------------------------------- run.json


def test_a_record_returns_as_written(tmp_path: Path) -> None:
    assert RunRecord.read(tmp_path) is None
    written = a_record(status="finished", step=12, skipped={"unreadable images": 2})
    written.write(tmp_path)
    assert RunRecord.read(tmp_path) == written
    assert json.loads((tmp_path / "run.json").read_text())["data"]["pairs"] == 96


def test_the_file_is_the_same_everywhere(tmp_path: Path) -> None:
    here = torch.device("cpu")
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        made = a_record(versions=versions(), git=git_state(), device=record.device_name(here))
        made.write(folder)
    data = (tmp_path / "a" / "run.json").read_bytes()
    assert data == (tmp_path / "b" / "run.json").read_bytes()
    for place in (str(tmp_path), os.getcwd(), str(Path.home()), time.strftime("%Y-%m-%d")):
        assert place.encode() not in data


@pytest.mark.parametrize(("moment", "operations"), [("before", range(4)), ("torn", [0])])
def test_a_crash_leaves_the_old_record_or_the_new(
    tmp_path: Path, moment: Moment, operations: Sequence[int]
) -> None:
    old, new = a_record(), a_record(status="finished", step=9)
    with pytest.MonkeyPatch.context() as patch:
        names = record_operations(patch)
        old.write(tmp_path)
    assert names == ["write_bytes", "sync", "rename", "sync"]
    for k in operations:
        old.write(tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, k, moment)
            assert in_child(partial(new.write, tmp_path)) == 137
        assert RunRecord.read(tmp_path) == (new if k > 2 else old)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "seed": 1}'])
def test_a_foreign_run_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json: not a run record .*choose another output"):
        RunRecord.read(tmp_path)


def test_what_changed_between_two_starts_is_named() -> None:
    old = a_record()
    assert old.differences(a_record(notes=["other"], step=5, git=None)) == []
    now = a_record(seed=2, data={"hash": "d1"}, versions={"torch": "2.1", "diffusers": "3"})
    assert sorted(old.differences(now)) == [
        "data: d0, now d1",
        "diffusers: absent, now 3",
        "peft: 1.0, now absent",
        "seed: 1, now 2",
        "torch: 2.0, now 2.1",
    ]


def test_a_resumed_record_keeps_what_was_noted() -> None:
    old = a_record(notes=["first", "both"], resumed_at=[3])
    now = a_record(notes=["both", "second"]).resumed(old, 7)
    assert now.notes == ["first", "both", "second"] and now.resumed_at == [3, 7] and now.step == 7


def test_versions_name_what_decides_the_numbers() -> None:
    found = versions()
    assert {"python", "mmalign", "torch", "transformers", "diffusers", "peft", "accelerate"} <= found.keys()
    assert torch.__version__.startswith(found["torch"])
    code_state.cache_clear()
    assert code_state() == git_state()


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs the git program")
def test_git_state_is_of_the_tracking_repository_only(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text("x = 1\n")
    assert git_state(file) is None, "no repository"
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "start")
    assert git_state(file) is None, "a repository around it that does not track it"
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "code")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(file) == {"commit": commit[:12], "dirty": False}
    file.write_text("x = 2\n")
    assert git_state(file) == {"commit": commit[:12], "dirty": True}


def test_no_git_program_is_no_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() is None


# ---------------------------------------------------------------- metrics.jsonl


def log_steps(folder: Path, resumed_at: int, last: int) -> None:
    """Two kinds of lines, as training and held-out metrics are."""
    with MetricsLog(folder, resumed_at) as log:
        for step in range(resumed_at + 1, last + 1):
            log.write(step, {"loss": 1 / step, "lr": 1e-4})
            if step % 2 == 0:
                log.write(step, {"heldout/loss": 2 / step, "note": None})


@pytest.mark.parametrize("torn", [b"", b'{"step": 8, "lo', b"\0\0\0"])
def test_a_resumed_log_is_the_uninterrupted_one(tmp_path: Path, torn: bytes) -> None:
    for name in ("straight", "resumed"):
        (tmp_path / name).mkdir()
    log_steps(tmp_path / "straight", 0, 9)
    log_steps(tmp_path / "resumed", 0, 7)
    with (tmp_path / "resumed" / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    log_steps(tmp_path / "resumed", 4, 9)
    straight = (tmp_path / "straight" / "metrics.jsonl").read_bytes()
    assert (tmp_path / "resumed" / "metrics.jsonl").read_bytes() == straight
    assert [json.loads(line)["step"] for line in straight.splitlines()][:4] == [1, 2, 2, 3]


def test_a_fresh_run_starts_an_empty_log(tmp_path: Path) -> None:
    for _ in range(2):
        with MetricsLog(tmp_path, 0) as log:
            log.write(0, {"heldout/loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "heldout/loss": 1.0}\n'


def test_non_finite_numbers_are_strict_json(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1 + 0.2, "e": 3})

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "a": "nan", "b": "inf", "c": "-inf", "d": 0.1 + 0.2, "e": 3}
    assert math.isnan(float(line["a"])) and float(line["c"]) == -math.inf


def test_lines_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, {"loss": 1.0})
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"loss": 1}\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl row 2: not a metrics line"):
        MetricsLog(tmp_path, 3)


# ---------------------------------------------------------------- the lock


def refused(folder: Path, pid: int) -> None:
    with pytest.raises(UserError, match=f"output: process {pid} is writing to {folder}"):
        OutputLock(folder, ALONE).__enter__()


def test_a_second_run_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    with OutputLock(tmp_path / "out", ALONE):
        refused(tmp_path / "out", os.getpid())
        assert in_child(partial(refused, tmp_path / "out", os.getpid())) == 0
    with OutputLock(tmp_path / "out", ALONE):
        refused(tmp_path / "out", os.getpid())


def test_the_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), OutputLock(tmp_path, ALONE):
        raise KeyError("inside")
    with OutputLock(tmp_path, ALONE):
        refused(tmp_path, os.getpid())


def test_a_killed_run_and_its_living_workers_leave_no_obstacle(tmp_path: Path) -> None:
    out, worker = tmp_path / "out", tmp_path / "worker"

    def run() -> None:
        OutputLock(out, ALONE).__enter__()
        child = os.fork()
        if child == 0:
            time.sleep(30)  # a loader worker that has not noticed yet
            os._exit(0)
        worker.write_text(str(child))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(run) == -signal.SIGKILL
    child = int(worker.read_text())
    try:
        os.kill(child, 0)
        with OutputLock(out, ALONE):
            refused(out, os.getpid())
    finally:
        os.kill(child, signal.SIGKILL)


def test_all_processes_hear_that_the_folder_is_taken(tmp_path: Path) -> None:
    with OutputLock(tmp_path, ALONE):
        results = on_threads(2, lambda world: OutputLock(tmp_path, world).__enter__())
    assert [type(result) for result in results] == [UserError, UserError]
    assert str(results[0]) == str(results[1])


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(record.fcntl, "flock", no_locks)
    with pytest.raises(UserError, match="file system without locks"):
        OutputLock(tmp_path, ALONE).__enter__()
