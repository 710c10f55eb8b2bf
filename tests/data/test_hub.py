"""Datasets of the datasets library from local folders; no network is touched."""

import socket
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from samples import text_of

from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.hub import Hub
from mmalign.types import UserError


@pytest.fixture(autouse=True)
def quiet_and_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def pairs(count: int = 2) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [{"prompt": f"p{n}", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(count)]
    )


def test_saved_dataset_with_pictures(tmp_path: Path) -> None:
    images = [Image.new("RGB", (8, 6), (n, 20, 30)) for n in range(2)]
    content = {"prompt": ["a", "b"], "chosen_image": images, "rejected_image": images[::-1]}
    kinds = {"prompt": datasets.Value("string")} | {
        f"{role}_image": datasets.Image() for role in ("chosen", "rejected")
    }
    datasets.Dataset.from_dict(content, features=datasets.Features(kinds)).save_to_disk(tmp_path / "set")
    samples = load(Hub(path=str(tmp_path / "set"))).samples
    assert [sample.origin for sample in samples] == ["set row 1", "set row 2"]
    second = decode(samples[1])
    assert second.examples["chosen"][0].response[0].data.getpixel((0, 0)) == (1, 20, 30)
    assert second.examples["rejected"][0].response[0].data.getpixel((0, 0)) == (0, 20, 30)


def test_saved_splits(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": pairs(3), "test": pairs(1)}).save_to_disk(tmp_path / "set")
    data = load(Hub(path=str(tmp_path / "set"), split="test"))
    assert [(sample.origin, text_of(sample, "chosen")) for sample in data.samples] == [
        ("set[test] row 1", ("p0", "a0"))
    ]
    with pytest.raises(UserError, match="has several splits; set data.split: test, train"):
        load(Hub(path=str(tmp_path / "set")))
    with pytest.raises(UserError, match="data.split 'val': no such split; there are test, train"):
        load(Hub(path=str(tmp_path / "set"), split="val"))
    datasets.DatasetDict({"train": pairs(3)}).save_to_disk(tmp_path / "one")
    assert len(load(Hub(path=str(tmp_path / "one"))).samples) == 3


def test_folder_of_data_files(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pairs(3).to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    pairs(2).to_parquet(tmp_path / "set" / "test-00000-of-00001.parquet")
    assert len(load(Hub(path=str(tmp_path / "set"), split="train")).samples) == 3


def test_what_is_no_dataset_is_refused_without_the_network(tmp_path: Path) -> None:
    for path in (str(tmp_path / "gone"), "./gone", "a/b/c", "../gone"):
        with pytest.raises(UserError, match="no such folder"):
            load(Hub(path=path))
    with pytest.raises(ValueError, match="path: must not be empty"):
        Hub(path="")
    (tmp_path / "x.jsonl").write_text("{}")
    with pytest.raises(UserError, match="is a file; use source: jsonl"):
        load(Hub(path=str(tmp_path / "x.jsonl")))
    (tmp_path / "code").mkdir()
    marker = tmp_path / "ran"
    (tmp_path / "code" / "code.py").write_text(f"open({str(marker)!r}, 'w').close()")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(Hub(path=str(tmp_path / "code")))
    assert not marker.exists()
