"""What a user may hand to the command line by mistake: exit code 2, one line that names it, no file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bad_configs
import bad_models
import pytest
import torch
import yaml
from bad_inputs import FILES, GOOD, IMAGES, Builder, write_rows
from cli_runs import assert_refused, call, listing
from training.runs import Bench

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Sound models and data; no test writes into them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(threads)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a call, with eight sound rows."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    write_rows(work / "pairs.jsonl", [GOOD | {"id": i, "prompt": f"Say {i}."} for i in range(8)])
    return work


def refused(capsys: Capture, work: Path, words: tuple[str, ...], *argv: str) -> None:
    """The call is refused with these words and leaves the working folder as it was."""
    before = listing(work)
    assert_refused(call(capsys, *argv), words)
    assert listing(work) == before


def write_config(bench: Bench, kind: str, **sections: Any) -> None:
    """config.yaml of a sound run in the working folder, with changes."""
    tree = bench.tree(kind, "", **sections) | {"output": "out", "cache": "cache"}
    Path("config.yaml").write_text(yaml.safe_dump(tree))


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize("name", bad_configs.EDITS)
def test_a_bad_config_is_refused_before_a_model_is_loaded(capsys: Capture, work: Path, name: str) -> None:
    old, new, words = bad_configs.EDITS[name]
    assert bad_configs.BASE.count(old) == 1
    (work / "config.yaml").write_text(bad_configs.BASE.replace(old, new))
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", bad_configs.FILES)
def test_a_file_that_is_no_config(capsys: Capture, work: Path, name: str) -> None:
    content, words = bad_configs.FILES[name]
    (work / "config.yaml").write_bytes(content)
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", bad_configs.OVERRIDES)
def test_a_bad_override(capsys: Capture, work: Path, name: str) -> None:
    override, words = bad_configs.OVERRIDES[name]
    (work / "config.yaml").write_text(bad_configs.BASE)
    refused(capsys, work, words, "train", "config.yaml", override)


# ---------------------------------------------------------------- rows and pictures


@pytest.mark.parametrize("name", FILES)
def test_a_bad_row_is_refused_before_a_model_is_loaded(capsys: Capture, work: Path, name: str) -> None:
    path, words = FILES[name](work)
    (work / "config.yaml").write_text(bad_configs.BASE.replace("pairs.jsonl", path.name))
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", IMAGES)
def test_a_bad_picture_is_refused(capsys: Capture, bench: Bench, work: Path, name: str) -> None:
    path, words = IMAGES[name](work)
    write_config(bench, "image", data={"path": path.name}, train={"batch": 2})
    refused(capsys, work, words, "train", "config.yaml")


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("name", bad_models.TEXT)
def test_a_bad_language_model_is_refused(capsys: Capture, bench: Bench, work: Path, name: str) -> None:
    damage, words = bad_models.TEXT[name]
    damage(Path(shutil.copytree(bench.model["text"]["path"], work / "model")))
    write_config(bench, "text", model={"path": "model"})
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", bad_models.IMAGE)
def test_a_bad_pipeline_is_refused(capsys: Capture, bench: Bench, work: Path, name: str) -> None:
    damage, words = bad_models.IMAGE[name]
    damage(Path(shutil.copytree(bench.model["image"]["path"], work / "model")))
    write_config(bench, "image", model={"path": "model"})
    refused(capsys, work, words, "train", "config.yaml")
