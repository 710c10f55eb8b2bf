"""Samples found encoded by their content: no file is decoded twice, and every change of one is noticed."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.data._loader import Loader, Recipe
from mmalign.data._order import Order
from mmalign.data._paths import File
from mmalign.data._row_cache import RowCache, content_of
from mmalign.training.encoding import Encoder
from mmalign.types import Example, Item, Message, Part, PreferenceSample, Prepared, Row, View

ROLES = ("chosen", "rejected")


class Averaging:
    """An adapter that encodes a picture as its mean colour, and notes what it was asked to do."""

    def __init__(self) -> None:
        self.prepared: list[str] = []
        self.encoded = 0

    def fingerprint(self) -> str:
        return "averaging"

    def prepare(self, sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        self.prepared.append(sample.id)
        rows = []
        for role in roles:
            (example,) = sample.examples[role]
            pixels = torch.from_numpy(np.array(example.response[0].data))
            caption = example.prompt[0].parts[0].data
            key = f"{pixels.sum()}/{caption}"
            data = {"pixels": pixels, "caption": caption}
            rows.append(Row(role, 0, data, key, {f"said {caption}": ("states",)}))
        return Prepared(sample.id, tuple(rows))

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        return [replace(one, rows=tuple(map(self._row, one.rows))) for one in prepared]

    def _row(self, row: Row) -> Row:
        self.encoded += 1
        mean = row.data["pixels"].float().mean((0, 1))
        return replace(row, data={"mean": mean, "states": torch.full((8,), float(len(row.data["caption"])))})


def save(path: Path, shade: int) -> None:
    Image.new("RGB", (8, 8), (shade, 10, 20)).save(path)


def example(root: Path, name: str, caption: str = "a cat") -> Example:
    turn = Message("text", (Part("text", caption),))
    return Example((turn,), (Part("image", File(str(root), name)),))


@pytest.fixture
def pool(tmp_path: Path) -> list[PreferenceSample]:
    """Four pairs of one-coloured pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    samples = []
    for i in range(4):
        for role, shade in zip(ROLES, (20 * i, 20 * i + 10), strict=True):
            save(folder / f"{role}{i}.png", shade)
        sides = {role: (example(folder, f"{role}{i}.png"),) for role in ROLES}
        samples.append(PreferenceSample(f"s{i}", sides, {"margin": float(i)}))
    return samples


def epoch(pool: list[PreferenceSample], adapter: Averaging, folder: Path, **recipe: Any) -> list[Item]:
    """All samples once, loaded and encoded as a training run does, in the order of their ids."""
    given: Any = adapter
    encoder = Encoder(given, str(folder))
    loader = Loader([pool], Order(0, (4,), 4), Recipe(adapter.prepare, ROLES, cache=encoder.cache, **recipe))
    (items,) = loader.steps(0, 1)
    encoded = encoder([item.prepared for item in items])
    done = [replace(item, prepared=one) for item, one in zip(items, encoded, strict=True)]
    return sorted(done, key=lambda item: item.id)


def tensors(items: Sequence[Item]) -> list[tuple[Any, ...]]:
    return [
        (item.id, row.role, row.slot, row.key, name, *value.tolist())
        for item in items
        for row in item.prepared.rows
        for name, value in sorted(row.data.items())
    ]


def test_a_warm_run_neither_decodes_nor_encodes(
    pool: list[PreferenceSample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold, warm = Averaging(), Averaging()
    first = epoch(pool, cold, tmp_path / "rows")
    assert len(cold.prepared) == 4 and cold.encoded == 8

    def refuse(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("mmalign.data._loader.decode", refuse)
    second = epoch(pool, warm, tmp_path / "rows")
    assert warm.prepared == [] and warm.encoded == 0
    assert tensors(first) == tensors(second)
    for one, two in zip(first, second, strict=True):
        assert (one.id, one.epoch, one.labels, one.row_labels, one.weight, one.origin) == (
            two.id, two.epoch, two.labels, two.row_labels, two.weight, two.origin
        )  # fmt: skip
    states = {row.data["states"].data_ptr() for item in second for row in item.prepared.rows}
    assert len(states) == 1  # the caption they all have


def test_rows_of_worker_processes_are_the_same(pool: list[PreferenceSample], tmp_path: Path) -> None:
    adapter: Any = Averaging()
    first = epoch(pool, adapter, tmp_path / "rows")
    encoder = Encoder(adapter, str(tmp_path / "rows"))
    recipe = Recipe(adapter.prepare, ROLES, cache=encoder.cache)
    (items,) = Loader([pool], Order(0, (4,), 4), recipe, workers=1).steps(0, 1)
    assert all(item.prepared.encoded for item in items)
    assert tensors(sorted(items, key=lambda item: item.id)) == tensors(first)


@pytest.mark.parametrize("change", ["picture", "caption", "name alone", "label"])
def test_what_changed_is_read_again(change: str, pool: list[PreferenceSample], tmp_path: Path) -> None:
    epoch(pool, Averaging(), tmp_path / "rows")
    folder = tmp_path / "pictures"
    chosen = pool[2].examples["chosen"][0]
    if change == "picture":
        save(folder / "chosen2.png", 200)
    elif change == "caption":
        turn = Message("text", (Part("text", "a dog and a cat"),))
        chosen = replace(chosen, prompt=(turn,))
    elif change == "name alone":
        (folder / "chosen2.png").rename(folder / "renamed.png")
        chosen = example(folder, "renamed.png")
    sides = {**pool[2].examples, "chosen": (chosen,)}
    labels = {"margin": 9.0} if change == "label" else pool[2].labels
    changed = [*pool[:2], replace(pool[2], examples=sides, labels=labels), pool[3]]
    adapter = Averaging()
    items = epoch(changed, adapter, tmp_path / "rows")
    assert adapter.prepared == ([] if change == "name alone" else ["s2"])
    assert adapter.encoded == (1 if change in ("picture", "caption") else 0)
    mean, states = (items[2].prepared.rows[0].data[name] for name in ("mean", "states"))
    assert mean.tolist() == [200 if change == "picture" else 40, 10, 20]
    assert states[0].item() == (15 if change == "caption" else 5)


@pytest.mark.parametrize("lost", ["index", "row", "part"])
def test_what_is_lost_or_damaged_is_made_again(
    lost: str, pool: list[PreferenceSample], tmp_path: Path
) -> None:
    first = epoch(pool, Averaging(), tmp_path / "rows")
    (row, *_), files = first[1].prepared.rows, RowCache(str(tmp_path / "rows"), "averaging").files
    assert files is not None and first[1].prepared.content is not None
    keys = {"index": f"sample-{first[1].prepared.content}", "row": row.key, "part": "part-said a cat"}
    path = files.path(f"averaging-{keys[lost]}")
    path.write_bytes(path.read_bytes()[:-3])
    adapter = Averaging()
    with pytest.warns(UserWarning, match="is damaged and will be made again"):
        second = epoch(pool, adapter, tmp_path / "rows")
    assert len(adapter.prepared) == (4 if lost == "part" else 1)  # all have the part
    assert adapter.encoded == {"index": 0, "row": 1, "part": 8}[lost]
    assert tensors(first) == tensors(second)
    again = Averaging()
    epoch(pool, again, tmp_path / "rows")
    assert again.prepared == []


def test_views_are_made_of_decoded_samples(pool: list[PreferenceSample], tmp_path: Path) -> None:
    """A view is drawn anew; what was kept of the sample itself does not stand in for it."""
    folder = tmp_path / "pictures"
    for i, one in enumerate(pool):
        named = {role: (example(folder, f"{role}{i}.png", f"cat {i}"),) for role in ROLES}
        pool[i] = replace(one, examples=named)
    for _ in range(2):
        adapter = Averaging()
        epoch(pool, adapter, tmp_path / "rows", views={"other": View("chosen", "other_response")})
        assert len(adapter.prepared) == 4


def test_content_is_all_that_is_read(pool: list[PreferenceSample]) -> None:
    one = pool[0]
    content = content_of(one, ROLES)
    assert content is not None and content == content_of(replace(one, id="x", origin="y"), ROLES)
    assert content != content_of(one, ("chosen",))
    assert content != content_of(replace(one, examples={"rejected": one.examples["chosen"]}), ROLES)
    swapped = dict(zip(ROLES, reversed([*one.examples.values()]), strict=True))
    assert content != content_of(replace(one, examples=swapped), ROLES)


def test_content_that_is_not_known_without_decoding_is_none(pool: list[PreferenceSample]) -> None:
    def holding(data: Any) -> PreferenceSample:
        medium = Example((), (Part("image", data),))
        return PreferenceSample("s", {"chosen": (medium,)})

    assert content_of(holding(Image.new("RGB", (4, 4))), ["chosen"]) is None
    assert content_of(holding(File("/nowhere", "a.png")), ["chosen"]) is None
    assert content_of(holding(b"bytes"), ["chosen"]) != content_of(holding(b"other"), ["chosen"])
    masked = replace(pool[0], labels={"mask": pool[0].examples["chosen"][0].response[0].data})
    assert content_of(masked, ROLES) != content_of(pool[0], ROLES)


def test_the_index_names_rows_parts_and_nothing_else(pool: list[PreferenceSample], tmp_path: Path) -> None:
    items = epoch(pool, Averaging(), tmp_path / "rows")
    files = RowCache(str(tmp_path / "rows"), "averaging").files
    assert files is not None
    entry = files.get(f"averaging-sample-{items[0].prepared.content}")
    assert entry is not None
    rows = [["chosen", 0, "1920/a cat"], ["rejected", 0, "2560/a cat"]]
    expected = [[*row, {"said a cat": ["states"]}] for row in rows]
    assert json.loads(bytes(entry["rows"].tolist())) == expected
