"""Frozen encoders behind their cache: what runs, what is kept, and in what order rows come back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

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
    monkeypatch.setattr("mmalign.training.encoding.MEMORY_BYTES", 4 * 1000 + 64)
    adapter = Sharing()
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
