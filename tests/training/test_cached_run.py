"""Runs over a cache of encoded rows: cold, warm, cut short, damaged or without one, they are the same run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Bench, largest_gap, losses, same_files, weights

from mmalign.adapters._denoiser import Denoiser
from mmalign.config import RunConfig
from mmalign.data import _loader
from mmalign.training.run import run

STEPS = 5  # of 4 samples: two epochs over ten


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(threads)


def config(bench: Bench, output: str, cache: str | None) -> RunConfig:
    made = bench.config("image", output, train={"steps": STEPS, "micro_batch": 2})
    return replace(made, cache=cache and str(bench.folder / cache))


@pytest.fixture(scope="module")
def cold(bench: Bench) -> Path:
    return run(config(bench, "cold", "one"))


def entries(bench: Bench, cache: str) -> list[Path]:
    return sorted((bench.folder / cache / "rows").rglob("*.safetensors"))


def same_run(ours: Path, theirs: Path) -> None:
    same_files(ours / "final", theirs / "final")
    assert losses(ours) == losses(theirs)
    mine, other = weights(ours, STEPS), weights(theirs, STEPS)
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def nearly_same_run(ours: Path, theirs: Path) -> None:
    """What was encoded beside other rows may differ in the last bit."""
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-4)
    assert largest_gap(weights(ours, STEPS), weights(theirs, STEPS)) < 1e-5


def test_a_warm_run_is_the_cold_one_without_its_work(
    cold: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; after the first look at every row, only what the starting checks need is decoded."""
    decoded: list[str] = []
    decode = _loader.decode

    def counted(sample: Any, frames: Any = None) -> Any:
        decoded.append(sample.id)
        return decode(sample, frames)

    before = entries(bench, "one")
    monkeypatch.setattr(_loader, "decode", counted)
    warm = run(config(bench, "warm", "one"))
    assert len(decoded) == 4  # of the starting checks, which look at rows before they are encoded
    same_run(cold, warm)
    assert entries(bench, "one") == before


def test_the_caption_of_a_pair_is_stored_once(cold: Path, bench: Bench) -> None:
    """Ten pairs: twenty pictures, their captions, a record for each row and one for each sample."""
    assert len(entries(bench, "one")) == 20 + 10 + 20 + 10


def test_a_run_that_was_cut_short_while_encoding_goes_on(
    cold: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = Denoiser.encode, 0

    def interrupted(self: Denoiser, prepared: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return encode(self, prepared)

    monkeypatch.setattr(Denoiser, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config(bench, "cut", "two"))
    held = entries(bench, "two")
    assert 0 < len(held) < len(entries(bench, "one"))
    monkeypatch.setattr(Denoiser, "encode", encode)
    nearly_same_run(cold, run(config(bench, "cut", "two")))
    assert len(entries(bench, "two")) == len(entries(bench, "one"))


def test_damaged_entries_are_made_again(cold: Path, bench: Bench) -> None:
    run(config(bench, "whole", "three"))
    for number, path in enumerate(entries(bench, "three")):
        if number % 3 == 0:
            path.write_bytes(path.read_bytes()[: 40 * number])
    with pytest.warns(UserWarning, match="is damaged and will be made again"):
        nearly_same_run(cold, run(config(bench, "repaired", "three")))


def test_without_a_folder_memory_keeps_what_was_encoded(cold: Path, bench: Bench) -> None:
    same_run(cold, run(config(bench, "memory", None)))
