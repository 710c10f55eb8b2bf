"""The size of a cache, told before it is written: worked numbers, refusals, and what counts as there."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.config import Train
from mmalign.data._cache import TensorCache
from mmalign.training.cache_size import Estimate, Paths, Planned, check_paths, check_space
from mmalign.training.encoding import Encoder
from mmalign.training.rows import Pool, RunData
from mmalign.training.world import World
from mmalign.types import Example, Message, Part, PreferenceSample, Prepared, Row, UserError

LATENTS = {"mean": torch.zeros(4, 64, 64), "logvar": torch.zeros(4, 64, 64)}  # 131,072 bytes: 33 blocks
STATES = torch.zeros(77, 768)  # 236,544 bytes: 58 blocks


def pair(number: int, caption: str = "c", key: bool = True) -> Prepared:
    """Two pictures of 512 x 512 under one caption, as SD 1.5 encodes them."""
    return Prepared(
        f"s{number}",
        tuple(
            Row(
                role,
                0,
                {**LATENTS, "states": STATES},
                f"{number}/{role}" if key else None,
                {caption: ("states",)},
            )
            for role in ("chosen", "rejected")
        ),
    )


def test_a_caption_counts_once_for_every_prompt() -> None:
    planned = Planned(samples=1000, prompts=250)
    found = Estimate.of([pair(1), pair(2)], planned)
    assert found == Estimate(1000 * 2 * 33 * 4096 + 250 * 58 * 4096, 2000)


def test_a_part_of_one_row_alone_counts_for_every_sample() -> None:
    single = Prepared("s", pair(1).rows[:1])
    assert Estimate.of([single], Planned(1000, 250)) == Estimate(1000 * (33 + 58) * 4096, 1000)


def test_rows_that_are_not_kept_take_nothing() -> None:
    assert Estimate.of([pair(1, key=False)], Planned(1000, 1000)) == Estimate(0, 0)


def sample(number: int, prompt: str) -> PreferenceSample:
    example = Example((Message("text", (Part("text", prompt),)),), (Part("text", "r"),))
    return PreferenceSample(f"s{number}", {"chosen": (example,), "rejected": (example,)})


def data(count: int, prompts: int, heldout: int = 0) -> RunData:
    pools = [Pool([sample(i, f"p{i % prompts}") for i in range(count)], None)]
    held = [Pool([sample(i, f"h{i}") for i in range(heldout)], None)]
    return RunData(pools, held, World(0, 1, torch.device("cpu")), "hash")


def test_samples_count_as_far_as_the_steps_go() -> None:
    assert Planned.of(data(100, 7), Train(epochs=1, batch=8)) == Planned(100, 7)
    assert Planned.of(data(100, 7, heldout=5), Train(steps=3, batch=8)) == Planned(24 + 5, 7 + 5)
    assert Planned.of(data(10, 10), Train(steps=30, batch=8)) == Planned(10, 10)


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorCache, "free", lambda cache: 3_000_000)


def test_the_line_and_the_refusal(tmp_path: Path, small_disk: None) -> None:
    told: list[str] = []
    cache, one = TensorCache(tmp_path), pair(1)
    fits = data(5, 5)
    check_space(fits, Train(steps=5, batch=1), told.append, cache, [one])  # 5 x 124 blocks
    assert told == [f"cache: about 2.54 MB for 10 rows in {tmp_path}, 3.00 MB free"]
    with pytest.raises(UserError) as refused:
        check_space(data(10, 10), Train(steps=10, batch=1), told.append, cache, [one])
    line = str(refused.value)
    assert line.startswith(f"cache {str(tmp_path)!r}: 20 rows take about 5.08 MB, and only 3.00 MB are free")
    assert "set cache: null" in line and "\n" not in line


class Encoding:
    """Gives every pair its latents and states."""

    def fingerprint(self) -> str:
        return "f"

    def encode(self, prepared: list[Prepared]) -> list[Prepared]:
        return prepared


def test_an_encoder_asks_once_and_before_anything_is_written(tmp_path: Path, small_disk: None) -> None:
    adapter: Any = Encoding()
    asked: list[int] = []

    def admit(cache: TensorCache, encoded: Any) -> None:
        asked.append(len(encoded))
        check_space(data(10, 10), Train(steps=10, batch=1), lambda line: None, cache, encoded)

    with pytest.raises(UserError, match="20 rows take about 5.08 MB"):
        Encoder(adapter, str(tmp_path), admit)([pair(1), pair(2)])
    assert asked == [2] and not list(tmp_path.rglob("*.safetensors"))
    filled = Encoder(adapter, str(tmp_path))
    filled([pair(i, f"c{i}") for i in range(6)])
    encoder = Encoder(adapter, str(tmp_path), admit)  # a run that goes on: what it wrote is not needed again
    encoder([pair(1, "c1")])
    assert asked == [2]  # all of it was there
    encoder([pair(7, "c7")])
    encoder([pair(8, "c8")])
    assert asked == [2, 1]


def paths_in(folder: Path) -> Paths:
    """Of 40 steps over the latents of a picture of 512 x 512."""
    return Paths(TensorCache(folder / "paths"), 40, lambda sample: (4, 64, 64))


def test_a_path_holds_latents_and_a_prediction_of_every_step(tmp_path: Path) -> None:
    assert -(-(41 * 65_536 + 40 * 8 + 4 + 400) // 4096) == 657  # by hand: 2,687,700 bytes
    found = paths_in(tmp_path).estimate([pair(1), pair(2)], Planned(1000, 250))
    assert found == Estimate(2000 * 657 * 4096, 2000)
    one = Prepared("s", pair(1).rows[:1])  # samples of a list may have other numbers of rows
    assert paths_in(tmp_path).estimate([pair(1), one], Planned(10, 10)).rows == 15


def test_rows_and_paths_must_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    cache, paths, one = TensorCache(tmp_path / "rows"), paths_in(tmp_path), pair(1)
    train = Train(steps=5, batch=1)  # 2.54 MB of rows, 10 paths of 2.691 MB
    monkeypatch.setattr(TensorCache, "free", lambda cache: 29_460_000)
    check_space(data(5, 5), train, told.append, cache, [one], paths)
    assert told == [
        f"cache: about 2.54 MB for 10 rows in {tmp_path}/rows, 29 MB free",
        f"cache: about 27 MB for 10 inverted paths in {tmp_path}/paths, 29 MB free",
    ]
    check_paths(data(5, 5), train, told.append, paths, [one])
    assert len(told) == 2  # told with the rows
    monkeypatch.setattr(TensorCache, "free", lambda cache: 29_440_000)
    with pytest.raises(UserError, match="10 rows take about 2.54 MB and 10 inverted paths 27 MB, and only"):
        check_space(data(5, 5), train, told.append, cache, [one], paths_in(tmp_path))
    paths.cache.put("left", {"value": torch.zeros(10_000)})  # of an earlier part of the run
    check_space(data(5, 5), train, told.append, cache, [one], paths_in(tmp_path))


def test_paths_alone_are_checked_where_all_rows_are_there(tmp_path: Path, small_disk: None) -> None:
    told: list[str] = []
    few = Train(steps=1, batch=1)
    with pytest.raises(UserError, match="2 inverted paths take about 5.38 MB, and only 3.00 MB are free"):
        check_paths(data(5, 5), few, told.append, paths_in(tmp_path), [pair(1)])
    assert told == [f"cache: about 5.38 MB for 2 inverted paths in {tmp_path}/paths, 3.00 MB free"]
    one = Prepared("s", pair(1).rows[:1])
    check_paths(data(5, 5), few, told.append, paths_in(tmp_path), [one])


def test_without_a_folder_nothing_is_asked() -> None:
    adapter: Any = Encoding()

    def admit(cache: TensorCache, encoded: Any) -> None:
        raise AssertionError

    Encoder(adapter, None, admit)([pair(1)])
