"""A decoder that hangs or crashes costs its row: it is named, the rest goes on, and no process is left."""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from clips import KINDS, video
from samples import pair
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mmalign.clips import Clip, Frames
from mmalign.data import _media, _video
from mmalign.data._first_pass import first_pass, outcomes
from mmalign.data._loader import Loader, Recipe
from mmalign.data._order import Order
from mmalign.data._prompts import decode_prompts
from mmalign.data._sources import Skipped
from mmalign.data._workers import LoaderError, LostWorker, guarded, run_jobs
from mmalign.types import Item, Part, PreferenceSample, Prepared, Row, UserError

pytestmark = [
    pytest.mark.multiprocess,
    pytest.mark.skipif(sys.platform != "linux", reason="the tests' decoder reaches workers by forking"),
]
ROLES = ("chosen", "rejected")
FRAMES = Frames(count=3, timeout_s=1.0)
SOUND = video(KINDS["h264"], 6)
NO_ANSWER = (
    "test row {0}, role 'chosen', video: gave no answer within 1 s; "
    "leave the row out or raise model.frames.timeout_s"
)
CRASHED = (
    "test row {0}, role 'chosen', video: crashed the decoder (SIGSEGV); leave the row out or convert the file"
)


def _hang() -> None:
    """Inside C with the interpreter's lock held: no Python signal handler and no thread could end it."""
    ctypes.PyDLL(None).sleep(600)


def _crash() -> None:
    ctypes.string_at(0)


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _row(number: int, data: Any = SOUND) -> PreferenceSample:
    one = pair(str(number))
    sides = {
        role: (replace(one.examples[role][0], response=(Part("video", data),)),) for role in one.examples
    }
    return replace(one, examples=sides)


def _rows(faults: dict[int, Callable[[], None]]) -> list[PreferenceSample]:
    return [_row(number, faults.get(number, SOUND)) for number in range(6)]


@pytest.fixture(autouse=True)
def decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that does what a row's function says, or decodes what is a video."""

    def decode(data: Any, frames: Frames) -> Clip:
        if not isinstance(data, bytes):
            data()
        return _video.decode_video(data, frames)

    monkeypatch.setattr(_media, "decode_video", decode)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Any:
    before = set(multiprocessing.active_children())
    yield
    for _ in range(50):
        if not (left := set(multiprocessing.active_children()) - before):
            return
        time.sleep(0.1)
    assert not left


def _fine(sample: PreferenceSample) -> tuple[str, ...]:
    clip = sample.examples["chosen"][0].response[0].data
    assert isinstance(clip, Clip) and clip.indices == (0, 2, 5)
    return ()


def _prepare(sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
    data = {"process": torch.tensor(os.getpid())}
    return Prepared(sample.id, tuple(Row(role, 0, data) for role in roles))


def _steps(samples: list[PreferenceSample], on_error: str, workers: int, noted: list | None = None) -> Any:
    recipe = Recipe(_prepare, ROLES, on_error=on_error, frames=FRAMES)  # type: ignore[arg-type]
    order = Order(seed=1, sizes=(len(samples),), batch=3)
    note = None if noted is None else lambda step, row: noted.append((step, row))
    return Loader([samples], order, recipe, workers, 60, note).steps(0, 3)


# ---------------------------------------------------------------- before the first step


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_that_hang_or_crash_are_left_out(workers: int) -> None:
    start = time.monotonic()
    found = first_pass(_rows({1: _hang, 4: _crash}), _fine, "skip", workers, 60, FRAMES)
    assert time.monotonic() - start < 20
    assert [sample.id for sample in found.kept] == ["0", "2", "3", "5"]
    assert found.skipped == [
        Skipped("1", "test row 1", NO_ANSWER.format(1)),
        Skipped("4", "test row 4", CRASHED.format(4)),
    ]


@pytest.mark.parametrize(("fault", "words"), [(_hang, NO_ANSWER), (_crash, CRASHED)])
def test_under_stop_the_row_is_named(fault: Callable[[], None], words: str) -> None:
    with pytest.raises(UserError) as caught:
        first_pass(_rows({2: fault}), _fine, "stop", 0, 60, FRAMES)
    assert str(caught.value) == words.format(2)


def test_a_worker_that_was_killed_is_no_fault_of_the_row() -> None:
    with pytest.raises(LoaderError, match="died while preparing test row 3, .*fewer workers"):
        first_pass(_rows({3: _killed}), _fine, "skip", 0, 60, FRAMES)


def test_outcomes_may_be_left_unread() -> None:
    found = outcomes(_rows({5: _hang}), _fine, "stop", frames=FRAMES)
    assert next(found) == ()
    found.close()  # type: ignore[attr-defined]


# ---------------------------------------------------------------- while training


def test_videos_are_decoded_in_another_process_even_without_workers() -> None:
    for items in _steps(_rows({}), "stop", 0):
        assert all(int(row.data["process"]) != os.getpid() for item in items for row in item.prepared.rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_late_hang_or_crash_gets_weight_zero_or_stops(workers: int) -> None:
    for fault, words in ((_hang, NO_ANSWER), (_crash, CRASHED)):
        rows, noted = _rows({4: fault}), []  # type: ignore[var-annotated]
        steps: list[list[Item]] = list(_steps(rows, "skip", workers, noted))
        weights = [{item.id: item.weight for item in items} for items in steps]
        assert [len(items) for items in steps] == [3, 3, 3]
        hit = [number for number, step in enumerate(weights) if "4" in step]
        assert all(step.pop("4", 0.0) == 0.0 for step in weights) and hit
        assert {weight for step in weights for weight in step.values()} == {1.0}
        reason = words.format(4)
        assert noted == [(step, Skipped("4", "test row 4", reason)) for step in hit]
        with pytest.raises(UserError) as caught:
            list(_steps(rows, "stop", workers))
        assert str(caught.value) == reason


def _crash_second(number: int) -> int:
    with guarded(str(number), f"job {number}", 10):
        if number == 1:
            _crash()
    return number


def test_a_worker_that_crashes_ahead_leaves_the_main_process_at_its_step() -> None:
    """The next job is begun while this process is busy with an answer: it hears of a crash when it asks."""
    answers = run_jobs(_crash_second, range(3), 1, 60, str)
    assert next(answers) == 0
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(LostWorker, match="^job 1: crashed the decoder"):
        next(answers)


def test_a_worker_that_crashes_before_all_have_started(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = _MultiProcessingDataLoaderIter._reset

    def slow(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        time.sleep(1.0)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_reset", slow)
    with pytest.raises(LostWorker, match="^job 1: crashed the decoder"):
        list(run_jobs(_crash_second, range(1, 5), 2, 60, str))


def test_a_loader_of_the_users_own_still_learns_of_its_workers() -> None:
    assert list(run_jobs(_collect, range(2), 1, 5, str)) == [0, 1]

    class Crashes(Dataset[int]):
        def __getitem__(self, number: int) -> int:
            _crash()
            return number

        def __len__(self) -> int:
            return 1

    start = time.monotonic()
    with pytest.raises(RuntimeError, match="Segmentation fault|exited unexpectedly"):
        list(DataLoader(Crashes(), num_workers=1, timeout=60, multiprocessing_context="fork"))
    assert time.monotonic() - start < 30


# ---------------------------------------------------------------- prompts, and work that takes its time


def test_a_prompt_whose_video_hangs_is_named() -> None:
    sound, bad = (_row(0, data).examples["chosen"][0] for data in (SOUND, _hang))
    turns = [tuple(replace(turn, parts=side.response) for turn in side.prompt) for side in (sound, bad)]
    (one,) = decode_prompts([("a", turns[0])], FRAMES)
    assert one[0] == "a" and one[1][0].parts[0].data.indices == (0, 2, 5)
    with pytest.raises(UserError, match="^prompt 'b', .*video: gave no answer within 1 s"):
        decode_prompts([("a", turns[0]), ("b", turns[1])], FRAMES)


def test_the_limit_is_for_each_video_alone() -> None:
    def slow() -> None:
        time.sleep(0.4)
        raise UserError("took its time")

    found = list(outcomes(_rows(dict.fromkeys(range(6), slow)), _fine, "skip", frames=FRAMES))
    assert all(str(reason).endswith("video: took its time") for reason in found)


class _Waits:
    """Stands for a library's object that ends its threads when it is freed."""

    def __init__(self) -> None:
        self.cycle, self.owner = self, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.owner:
            _hang()


def _collect(number: int) -> int:
    gc.collect()
    return number


def test_workers_do_not_collect_what_the_main_process_left() -> None:
    gc.disable()
    try:
        _Waits()
        assert list(run_jobs(_collect, range(2), 1, 5, str)) == [0, 1]
    finally:
        gc.enable()
        gc.collect()


def test_what_the_main_process_left_is_collected_there_afterwards() -> None:
    """Also where it has set aside what the collector need not look at, as these tests do with modules."""
    assert gc.get_freeze_count() > 0
    left = _Waits()
    freed = weakref.ref(left)
    assert list(run_jobs(_collects, range(2), 1, 5, str)) == [True, True]
    del left
    assert gc.isenabled() and freed() is not None
    gc.collect()
    assert freed() is None
    gc.disable()
    try:
        assert list(run_jobs(_collects, range(2), 1, 5, str)) == [False, False]
    finally:
        gc.enable()


def _collects(number: int) -> bool:
    return gc.isenabled()


def test_guarded_work_changes_no_result() -> None:
    here = [_media.decode(sample, FRAMES) for sample in _rows({})]
    there = list(run_jobs(lambda number: _media.decode(_row(number), FRAMES), range(6), 1, 60, str))
    for one, other in zip(here, there, strict=True):
        mine, theirs = (x.examples["chosen"][0].response[0].data for x in (one, other))
        assert torch.equal(mine.frames, theirs.frames)
        assert replace(mine, frames=theirs.frames) == theirs
