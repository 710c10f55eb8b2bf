"""Saving under faults: crashes at every file operation, full disks, pruning, several processes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_states import found_state, same, small, steps
from faults import (
    ALONE,
    TEARABLE,
    Moment,
    crash_at,
    in_child,
    limit_file_size,
    no_space_at,
    on_threads,
    record_operations,
    watch,
)
from torch import Tensor

from mmalign.training import _files
from mmalign.training.checkpoint import (
    CheckpointError,
    Saver,
    check_space,
    estimated_bytes,
    latest,
    load,
    prune,
    save,
)
from mmalign.types import UserError


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a process loses nothing that was written; only a power cut, not tried here, would."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ---------------------------------------------------------------- crashes and full disks


def run_on(folder: Path, last: int) -> Tensor:
    """A run of `last` steps in small: resumes what it finds, saves at every second step, keeps one."""
    found = latest(folder).found
    weight, first = torch.ones(3), 1
    if found is not None:
        weight, first = load(found).model["w"], found.step + 1
    for step in range(first, last + 1):
        weight = torch.sin(weight * 3 + step)
        if step % 2 == 0:
            save(folder, replace(small(step), model={"w": weight}), ALONE, keep=1)
    return weight


@pytest.mark.parametrize("moment", ["before", "torn"])
def test_a_crash_at_any_file_operation_costs_one_interval(tmp_path: Path, moment: Moment) -> None:
    straight = run_on(tmp_path / "straight", 6)
    with pytest.MonkeyPatch.context() as patch:
        names = record_operations(patch)
        run_on(tmp_path / "count", 4)
    assert set(names) == {"write_bytes", "write_tensors", "sync", "rename", "make_folder", "remove_tree"}
    outcomes = set()
    for k, name in enumerate(names):
        if moment == "torn" and name not in TEARABLE:
            continue
        folder = tmp_path / str(k)
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, k, moment)
            assert in_child(partial(run_on, folder, 4)) == 137
        scan = latest(folder)
        assert not scan.broken, "what a crash leaves is absent, not broken"
        step = scan.found.step if scan.found else 0
        # renames: step 2 appears, step 4 appears, step 2 goes to the trash
        assert step == [0, 2, 4, 4][names[:k].count("rename")]
        outcomes.add(step)
        assert torch.equal(run_on(folder, 6), straight)
        assert steps(folder) == ["step-000006"], "leftovers are cleared by the next save"
    assert outcomes == {0, 2, 4}


def test_files_reach_the_disk_before_the_checkpoint_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []

    def seen(kind: str, path: Path, do: Callable[[], None]) -> None:
        done.append((kind, path.name))
        do()

    watch(monkeypatch, seen)
    final = save(tmp_path, small(1), ALONE, keep=1)
    fresh = f"step-000001.tmp-{os.getpid()}"
    assert done[-5:] == [
        ("write_bytes", "manifest.json"),
        ("sync", "manifest.json"),
        ("sync", fresh),
        ("rename", fresh),
        ("sync", "checkpoints"),
    ]
    for file in final.iterdir():
        written = next(at for at, (kind, name) in enumerate(done) if name == file.name)
        assert done[written][0].startswith("write") and done[written + 1] == ("sync", file.name)


def test_a_file_too_large_for_the_disk_is_named(tmp_path: Path) -> None:
    save(tmp_path, small(1), ALONE, keep=1)
    large = replace(small(2), model={"w": torch.zeros(50_000)})
    report = tmp_path / "report"

    def child() -> None:
        limit_file_size(100_000)
        try:
            save(tmp_path, large, ALONE, keep=1)
        except CheckpointError as error:
            report.write_text(str(error))

    assert in_child(child) == 0
    message = report.read_text()
    assert "model.safetensors (200000 bytes, " in message and "File too large" in message
    assert str(tmp_path) in message and " free)" in message
    assert steps(tmp_path) == ["step-000001"]
    assert same(found_state(tmp_path).model, small(1).model)


def test_too_little_space_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, small(1), ALONE, keep=1)
    needed = estimated_bytes(small(2))
    monkeypatch.setattr(_files, "free_bytes", lambda folder: needed - 1)
    names = record_operations(monkeypatch)
    with pytest.raises(CheckpointError, match=f"{needed - 1} bytes free, a checkpoint needs {needed}"):
        save(tmp_path, small(2), ALONE, keep=1)
    assert names == [] and steps(tmp_path) == ["step-000001"]


def test_space_can_be_checked_before_the_run(tmp_path: Path) -> None:
    assert estimated_bytes(replace(small(1), model={"w": torch.zeros(10**6)})) > 1.2 * 4 * 10**6
    check_space(tmp_path / "not" / "made" / "yet", 1)
    with pytest.raises(UserError, match=r"output: .*bytes free"):
        check_space(tmp_path, 2**60)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("write_tensors", "model"),
        ("write_bytes", "manifest"),
        ("sync", "step-000002.tmp"),
        ("rename", "step-000002.tmp"),
    ],
)
def test_one_failed_save_is_a_warning_two_in_a_row_stop(tmp_path: Path, operation: str, name: str) -> None:
    said: list[str] = []
    saver = Saver(tmp_path, ALONE, keep=1, warn=said.append)
    saver.save(small(1))
    with pytest.MonkeyPatch.context() as patch:
        no_space_at(patch, operation, name)
        assert saver.save(small(2)) is None
        assert len(said) == 1 and os.strerror(errno.ENOSPC) in said[0]
        assert steps(tmp_path) == ["step-000001"], "a failed save removes its folder and prunes nothing"
        with pytest.raises(CheckpointError, match="second save in a row"):
            saver.save(small(2))
    assert saver.save(small(2)) is not None
    with pytest.MonkeyPatch.context() as patch:
        no_space_at(patch, "write_bytes", "trainer.json")
        assert saver.save(small(3)) is None, "a success in between makes a failure the first again"
    assert steps(tmp_path) == ["step-000002"]


def test_the_last_save_is_tried_again_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    saver = Saver(tmp_path, ALONE, keep=1, warn=said.append)
    with pytest.MonkeyPatch.context() as patch:
        no_space_at(patch, "rename", "step-000001.tmp")
        with pytest.raises(CheckpointError, match="second save in a row"):
            saver.save(small(1), last=True)
    assert len(said) == 1 and "at once" in said[0]
    assert saver.save(small(1), last=True) == tmp_path / "checkpoints" / "step-000001"


# ---------------------------------------------------------------- pruning


def foreign(folder: Path) -> list[str]:
    """Things in checkpoints/ that are not ours."""
    root = folder / "checkpoints"
    elsewhere = save(folder / "elsewhere", small(1), ALONE, keep=1)
    (root / "step-000001").symlink_to(elsewhere)
    (root / "step-000000.tmp-1").symlink_to(elsewhere)
    (root / "step-x").write_text("a file")
    (root / "step-000003").write_text("a file with our name")
    (root / "step-12").mkdir()
    (root / "best").mkdir()
    (root / "step-000002").mkdir()
    (root / "step-000002" / "notes.txt").write_text("no manifest")
    return ["best", "step-000000.tmp-1", "step-000001", "step-000002", "step-000003", "step-12", "step-x"]


@pytest.mark.parametrize("keep", [1, 2])
def test_pruning_keeps_k_and_touches_only_its_own(tmp_path: Path, keep: int) -> None:
    save(tmp_path, small(10), ALONE, keep)
    others = foreign(tmp_path)
    for step in (11, 12, 13):
        save(tmp_path, small(step), ALONE, keep)
    assert steps(tmp_path) == sorted(others + [f"step-{step:06d}" for step in (12, 13)[-keep:]])
    assert (tmp_path / "elsewhere/checkpoints/step-000001/manifest.json").exists()
    assert (tmp_path / "checkpoints/step-000002/notes.txt").exists()
    with pytest.raises(CheckpointError, match="in the way"):
        save(tmp_path, small(1), ALONE, keep)


def test_protected_checkpoints_stay(tmp_path: Path) -> None:
    saver = Saver(tmp_path, ALONE, keep=1, protect=frozenset({"step-000001"}))
    for step in (1, 2, 3):
        saver.save(small(step))
    assert steps(tmp_path) == ["step-000001", "step-000003"]
    prune(tmp_path, keep=1)
    assert steps(tmp_path) == ["step-000003"]


def test_the_one_just_saved_is_kept_beside_newer_ones(tmp_path: Path) -> None:
    save(tmp_path, small(9), ALONE, keep=1)
    save(tmp_path, small(5), ALONE, keep=1)
    assert steps(tmp_path) == ["step-000005", "step-000009"]


def test_a_failed_removal_says_that_the_new_one_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, small(1), ALONE, keep=1)
    no_space_at(monkeypatch, "rename", "step-000001")
    with pytest.raises(CheckpointError, match="step-000002 is saved, but removing"):
        save(tmp_path, small(2), ALONE, keep=1)
    assert found_state(tmp_path).progress.step == 2


# ---------------------------------------------------------------- several processes


def test_rank_0_writes_for_all(tmp_path: Path) -> None:
    def work(world: Any) -> Path:
        return save(tmp_path, small(1, value=100.0 * world.rank), world, keep=1)

    assert on_threads(2, work) == [tmp_path / "checkpoints" / "step-000001"] * 2
    found = latest(tmp_path).found
    assert found is not None and found.world_size == 2
    assert same(vars(load(found)), vars(small(1)))


@pytest.mark.parametrize("name", ["model", "manifest"])
def test_a_failure_on_rank_0_fails_the_save_on_all(tmp_path: Path, name: str) -> None:
    save(tmp_path, small(1), ALONE, keep=1)
    with pytest.MonkeyPatch.context() as patch:
        no_space_at(patch, "write_bytes" if name == "manifest" else "write_tensors", name)
        results = on_threads(2, lambda world: save(tmp_path, small(2), world, keep=1))
    assert [type(result) for result in results] == [CheckpointError, CheckpointError]
    assert str(results[0]) == str(results[1]) and name in str(results[0])
    assert steps(tmp_path) == ["step-000001"]


def test_all_processes_find_the_same(tmp_path: Path) -> None:
    save(tmp_path, small(1), ALONE, keep=2)
    (save(tmp_path, small(2), ALONE, keep=2) / "trainer.json").unlink()
    scans = on_threads(2, lambda world: latest(tmp_path, world))
    assert scans[0] == scans[1] and scans[0].found.step == 1 and scans[0].broken == ("step-000002",)
