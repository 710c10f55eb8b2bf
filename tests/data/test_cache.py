"""The tensor cache: whole files only, several processes, damaged files made again."""

import multiprocessing
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
