"""The tensor cache: whole files only, several processes, damaged files made again."""

import itertools
import multiprocessing
import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch

from mmalign.data._cache import TensorCache
from mmalign.types import UserError

RECORD = {
    "mean": torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0)),
    "half": torch.arange(6).to(torch.bfloat16).reshape(2, 3),
    "ids": torch.tensor([3, 1]),
    "flag": torch.tensor(True),
    "empty": torch.zeros(0, 3),
}


def _assert_equal(found: dict[str, torch.Tensor] | None, expected: dict[str, torch.Tensor]) -> None:
    assert found is not None and set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_round_trip_and_misses(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache")
    assert cache.get("a") is None
    cache.put("a", RECORD)
    _assert_equal(cache.get("a"), RECORD)
    assert cache.get("b") is None
    cache.put("a", {"x": torch.ones(2)[::1].expand(2)})
    _assert_equal(TensorCache(tmp_path / "cache").get("a"), {"x": torch.ones(2)})


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = TensorCache(tmp_path / "1"), TensorCache(tmp_path / "2")
    first.put("a", RECORD)
    second.put("a", RECORD)
    assert first.path("a").read_bytes() == second.path("a").read_bytes()
    assert len(first.path("a").relative_to(tmp_path / "1").parts) == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "garbage", "other key"])
def test_damaged_files_are_misses_that_are_made_again(damage: str, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.put("a", RECORD)
    path = cache.path("a")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-5] ^= 0x10
    elif damage == "other key":
        cache.put("b", RECORD)
        data = bytearray(cache.path("b").read_bytes())
    else:
        data = {"cut": data[:-7], "empty": bytearray(), "garbage": bytearray(b"x" * 300)}[damage]
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged and will be made again"):
        assert cache.get("a") is None
    cache.put("a", RECORD)
    _assert_equal(cache.get("a"), RECORD)


def test_many_damaged_files_are_told_in_few_lines(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    for number in range(12):
        cache.put(str(number), {"x": torch.ones(3)})
        cache.path(str(number)).write_bytes(b"cut off")
    with pytest.warns(UserWarning) as told:
        assert all(cache.get(str(number)) is None for number in range(12))
    assert cache.damaged == 12 and len(told) == 2
    assert "(10 such files so far)" in str(told[1].message)


def test_drafts_of_killed_processes_are_cleared_away(tmp_path: Path) -> None:
    TensorCache(tmp_path).put("a", RECORD)
    old, new = (tmp_path / "drafts" / name for name in ("old.tmp", "new.tmp"))
    for draft in (old, new):
        draft.write_bytes(b"half a file")
    os.utime(old, (time.time() - 7200,) * 2)
    cache = TensorCache(tmp_path)
    _assert_equal(cache.get("a"), RECORD)
    assert old.exists()  # reading alone changes nothing
    cache.put("b", RECORD)
    assert not old.exists() and new.exists()


def _write_for_ever(folder: Path) -> None:
    cache = TensorCache(folder)
    for number in itertools.count():
        cache.put(str(number % 50), {"x": torch.full((200_000,), float(number % 50))})


@pytest.mark.multiprocess
def test_a_killed_process_leaves_whole_files_only(tmp_path: Path) -> None:
    """Whenever the kill comes, every file under a final name is sound, and the next process goes on."""
    context = multiprocessing.get_context("fork")
    for moment in (0.02, 0.05, 0.11):
        writer = context.Process(target=_write_for_ever, args=(tmp_path,))
        writer.start()
        while not list(tmp_path.rglob("*.safetensors")):
            time.sleep(0.005)
        time.sleep(moment)
        writer.kill()
        writer.join(10)
        assert writer.exitcode == -signal.SIGKILL
    cache = TensorCache(tmp_path)
    found = {number: cache.get(str(number)) for number in range(50)}
    assert cache.damaged == 0
    held = {number: one["x"] for number, one in found.items() if one is not None}
    assert len(held) == len(list(tmp_path.rglob("*.safetensors"))) > 0
    assert all(bool((value == number).all()) for number, value in held.items())


def test_what_the_folder_takes_and_the_disk_has(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    assert cache.used() == 0 and not cache.holds("a")
    cache.put("a", {"x": torch.zeros(100_000)})
    assert cache.holds("a") and 400_000 <= cache.used() < 420_000
    assert cache.free() == shutil.disk_usage(tmp_path).free


def test_a_full_disk_is_named_and_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TensorCache(tmp_path)

    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="bytes failed .No space left on device.; [0-9]+ bytes are free"):
        cache.put("a", RECORD)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        TensorCache(tmp_path / "file" / "cache")


def _hammer(folder: Path, worker: int, failed: "multiprocessing.Queue[int]") -> None:
    cache = TensorCache(folder)
    bad = 0
    with warnings.catch_warnings(record=True) as damaged:
        warnings.simplefilter("always")
        for turn in range(60):
            key = str(turn % 3)
            cache.put(key, {"x": torch.full((5000,), float(turn % 3))})
            found = cache.get(key)
            bad += found is None or not bool((found["x"] == turn % 3).all())
    failed.put(bad + len(damaged))


@pytest.mark.multiprocess
def test_several_processes_write_the_same_keys(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    failed = context.Queue()
    workers = [context.Process(target=_hammer, args=(tmp_path, n, failed)) for n in range(3)]
    for worker in workers:
        worker.start()
    assert [failed.get(timeout=30) for _ in workers] == [0, 0, 0]
    for worker in workers:
        worker.join(10)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


def test_a_file_is_verified_once_and_again_when_it_changes(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.put("a", {"x": torch.arange(4.0)})
    assert cache.get("a") is not None
    path = cache.path("a")
    broken = bytearray(path.read_bytes())
    broken[-1] ^= 1
    path.write_bytes(bytes(broken))
    os.utime(path, ns=(1, 1))
    with pytest.warns(UserWarning, match="does not match its checksum"):
        assert cache.get("a") is None
    assert cache.damaged == 1
