"""Frozen encoders behind their cache: what runs, what is kept, and in what order rows come back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.data._cache import TensorCache
from mmalign.training.encoding import Encoder
from mmalign.types import Prepared, Row


class Doubling:
    """An adapter whose encoder doubles a row's number; it notes what it was given."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def fingerprint(self) -> str:
        return "doubling"

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        self.seen += [row.role for one in prepared for row in one.rows]
        return [
            replace(one, rows=tuple(replace(row, data={"x": 2 * row.data["x"]}) for row in one.rows))
            for one in prepared
        ]


def sample(name: str, **keys: str | None) -> Prepared:
    """A sample with one row per role; its number is the place of the row."""
    rows = (Row(role, 0, {"x": torch.tensor([i])}, key) for i, (role, key) in enumerate(keys.items()))
    return Prepared(name, tuple(rows))


@pytest.mark.parametrize("folder", [False, True])
def test_only_rows_that_are_not_kept_run_again(tmp_path: Path, folder: bool) -> None:
    adapter: Any = Doubling()
    encoder = Encoder(adapter, str(tmp_path / "rows") if folder else None)
    samples = [sample("one", a="k1", b=None, c="k2"), sample("two", d="k3")]
    for expected in (["a", "b", "c", "d"], ["b"]):
        adapter.seen = []
        encoded = encoder(samples)
        assert adapter.seen == expected
        assert [[(r.role, r.key, int(r.data["x"])) for r in one.rows] for one in encoded] == [
            [("a", "k1", 0), ("b", None, 2), ("c", "k2", 4)],
            [("d", "k3", 0)],
        ]
        assert [one.sample_id for one in encoded] == ["one", "two"]


def test_nothing_runs_where_everything_is_kept() -> None:
    adapter: Any = Doubling()
    encoder = Encoder(adapter, None)
    encoder([sample("one", a="k1")])
    adapter.encode = None
    assert int(encoder([sample("other", z="k1")])[0].rows[0].data["x"]) == 0


def test_memory_is_bounded_and_shared_tensors_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows that hold the same features take their size once; what does not fit is encoded again."""
    monkeypatch.setattr("mmalign.data._row_cache.MEMORY_BYTES", 4 * 1000 + 64)
    adapter: Any = Sharing()
    encoder = Encoder(adapter, None)
    first, second = (Prepared(n, (Row("a", 0, {}, n + "a"), Row("b", 0, {}, n + "b"))) for n in "xy")
    encoder([first])
    encoder([first])
    assert adapter.calls == 1
    encoder([second])
    encoder([second])
    assert adapter.calls == 3


class Sharing:
    """Gives both rows of a sample the same 4,000 bytes."""

    calls = 0

    def fingerprint(self) -> str:
        return "f"

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        self.calls += 1
        shared = torch.zeros(1000)
        return [replace(p, rows=tuple(replace(r, data={"x": shared}) for r in p.rows)) for p in prepared]


class Captioned:
    """Gives every row `x`, its own number doubled, and the states of its caption; notes how many rows ran."""

    def __init__(self) -> None:
        self.ran = 0

    def fingerprint(self) -> str:
        return "captioned"

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        return [replace(one, rows=tuple(self._row(row) for row in one.rows)) for one in prepared]

    def _row(self, row: Row) -> Row:
        self.ran += 1
        caption = row.data["caption"]
        names = next(iter(row.shares.values()), ("states", "pooled"))
        # a real encoder rounds differently from batch to batch; `ran` stands for that
        made = {names[0]: torch.full((100,), caption + self.ran / 1000), names[1]: caption.clone()}
        return replace(row, data={"x": 2 * row.data["x"], **made})


def captioned(name: str, *rows: tuple[int, int], names: tuple[str, str] = ("states", "pooled")) -> Prepared:
    """Rows of (own number, number of the caption)."""
    return Prepared(
        name,
        tuple(
            Row(
                "chosen",
                slot,
                {"x": torch.tensor([own]), "caption": torch.tensor(float(caption))},
                f"{own}/{caption}",
                {f"c{caption}": names},
            )
            for slot, (own, caption) in enumerate(rows)
        ),
    )


@pytest.mark.parametrize("folder", [False, True])
def test_a_shared_part_is_stored_once_and_is_one_tensor(tmp_path: Path, folder: bool) -> None:
    adapter: Any = Captioned()
    place = str(tmp_path / "rows") if folder else None
    encoder = Encoder(adapter, place)
    first = encoder([captioned("a", (1, 7), (2, 7)), captioned("b", (3, 7), (4, 8))])
    assert adapter.ran == 4
    if folder:
        assert len(list(tmp_path.rglob("*.safetensors"))) == 4 + 2
        encoder = Encoder(adapter, place)
    again = encoder([captioned("a", (1, 7), (2, 7)), captioned("b", (3, 7), (4, 8))])
    assert adapter.ran == 4
    for encoded in (first, again):
        rows = [row for one in encoded for row in one.rows]
        assert [int(row.data["x"]) for row in rows] == [2, 4, 6, 8]
        assert [row.data["pooled"].item() for row in rows] == [7, 7, 7, 8]
        assert len({row.data["states"].data_ptr() for row in rows}) == 2
    for one, two in zip(first, again, strict=True):
        for ours, theirs in zip(one.rows, two.rows, strict=True):
            assert ours.data.keys() == theirs.data.keys()
            assert all(torch.equal(ours.data[name], theirs.data[name]) for name in ours.data)


def test_a_new_row_takes_the_part_that_is_kept(tmp_path: Path) -> None:
    """What trains cold and warm must be the same numbers, though an encoder may round otherwise each time."""
    adapter: Any = Captioned()
    encoder = Encoder(adapter, str(tmp_path))
    before = encoder([captioned("a", (1, 7))])[0].rows[0].data["states"]
    after = encoder([captioned("b", (2, 7))])[0].rows[0].data["states"]
    assert adapter.ran == 2 and torch.equal(before, after)


def test_a_part_may_bear_other_names_in_other_rows() -> None:
    adapter: Any = Captioned()
    encoder = Encoder(adapter, None)
    encoder([captioned("a", (1, 7))])
    encoder([captioned("b", (2, 7), names=("first", "second"))])
    adapter.encode = None
    row = encoder([captioned("b", (2, 7), names=("first", "second"))])[0].rows[0]
    assert sorted(row.data) == ["first", "second", "x"] and row.data["second"].item() == 7


def test_a_row_without_one_of_its_parts_is_encoded_whole(tmp_path: Path) -> None:
    adapter: Any = Captioned()
    encoder = Encoder(adapter, str(tmp_path))
    (stored,) = encoder([captioned("a", (1, 7), (2, 8))])
    cache = TensorCache(tmp_path)
    cache.path("captioned-part-c7").unlink()
    (again,) = encoder([captioned("a", (1, 7), (2, 8))])
    assert adapter.ran == 3
    assert not torch.equal(again.rows[0].data["states"], stored.rows[0].data["states"])
    assert torch.equal(again.rows[1].data["states"], stored.rows[1].data["states"])
    encoder([captioned("a", (1, 7), (2, 8))])
    assert adapter.ran == 3


def test_entries_of_rows_that_shared_nothing_yet_are_made_again(tmp_path: Path) -> None:
    """An entry that holds the whole row, as one without `shares` does, is replaced by its parts."""
    adapter: Any = Captioned()
    encoder = Encoder(adapter, str(tmp_path))
    sample = captioned("a", (1, 7))
    encoder([replace(sample, rows=(replace(sample.rows[0], shares={}),))])
    encoder([sample])
    encoder([sample])
    assert adapter.ran == 2
    assert sorted(TensorCache(tmp_path).get("captioned-1/7") or {}) == ["x"]


def test_a_row_without_a_key_keeps_nothing(tmp_path: Path) -> None:
    adapter: Any = Captioned()
    encoder = Encoder(adapter, str(tmp_path))
    sample = captioned("a", (1, 7))
    encoder([replace(sample, rows=(replace(sample.rows[0], key=None),))])
    assert not list(tmp_path.iterdir())


def test_long_lists_are_stored_as_they_are_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a run between two groups of samples costs at most one group."""
    monkeypatch.setattr("mmalign.training.encoding.TOGETHER", 2)
    adapter: Any = Captioned()
    encoder = Encoder(adapter, str(tmp_path))
    samples = [captioned(str(i), (i, i)) for i in range(5)]
    encode = adapter.encode

    def failing(prepared: Sequence[Prepared]) -> list[Prepared]:
        if adapter.ran >= 4:
            raise KeyboardInterrupt
        return list(encode(prepared))

    adapter.encode = failing
    with pytest.raises(KeyboardInterrupt):
        encoder(samples)
    adapter.encode = encode
    assert [one.sample_id for one in encoder(samples)] == [str(i) for i in range(5)]
    assert adapter.ran == 5
