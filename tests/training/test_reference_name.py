"""Names of frozen references in caches: they change with the weights wherever these lie, or it is said."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_runs import Bench

from mmalign.training._reference_name import reference_name
from mmalign.training.run import run
from mmalign.training.setup import build_policy
from mmalign.types import Adapter

FIRST, SECOND = "1" * 40, "2" * 40  # commits


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("names"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def adapter(bench: Bench) -> Adapter:
    return build_policy(bench.config("text", "none"), torch.device("cpu"))


@pytest.fixture
def hub(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local cache of the hub with one commit of tiny/reference, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models--tiny--reference"
    shutil.copytree(bench.model["text"]["path"], folder / "snapshots" / FIRST)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(FIRST)
    return folder


def name_of(bench: Bench, adapter: Adapter, path: str, said: list[str]) -> str:
    config = bench.config("text", "none", reference={"name": "cached", "path": path})
    return reference_name(config, adapter, said.append)


def change(folder: Path) -> None:
    """Other weights in a file of the same size, in place of a link or not."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    os.replace(shutil.copy(file, folder / "copy"), file)
    save_file({**weights, name: weights[name] + 1}, file, metadata={"format": "pt"})


def test_a_hub_id_is_named_by_its_commit(bench: Bench, adapter: Adapter, hub: Path) -> None:
    said: list[str] = []
    before = name_of(bench, adapter, "tiny/reference", said)
    assert name_of(bench, adapter, "tiny/reference", said) == before
    shutil.copytree(hub / "snapshots" / FIRST, hub / "snapshots" / SECOND)
    (hub / "refs" / "main").write_text(SECOND)
    assert name_of(bench, adapter, "tiny/reference", said) != before
    assert not said


def test_a_run_scores_again_with_another_commit(bench: Bench, hub: Path) -> None:
    def scored(output: str) -> int:
        reference = {"name": "cached", "path": "tiny/reference"}
        run(bench.config("text", output, reference=reference, train={"steps": 1}))
        return len(list((bench.folder / "cache" / "reference").rglob("*.safetensors")))

    first = scored("first")
    assert first > 0 and scored("again") == first
    shutil.copytree(hub / "snapshots" / FIRST, hub / "snapshots" / SECOND)
    change(hub / "snapshots" / SECOND)
    (hub / "refs" / "main").write_text(SECOND)
    assert scored("second") == 2 * first


def test_a_name_alone_is_told(bench: Bench, adapter: Adapter, hub: Path) -> None:
    said: list[str] = []
    one, other = (name_of(bench, adapter, f"tiny/{name}", said) for name in ("gone", "lost"))
    assert one != other
    assert [line.split(":")[0] for line in said] == ["reference.path tiny/gone", "reference.path tiny/lost"]
    assert "goes by this name alone" in said[0] and "\n" not in said[0]


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_folder_is_named_by_what_its_files_hold(
    bench: Bench, adapter: Adapter, tmp_path: Path, suffix: str
) -> None:
    said: list[str] = []
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        shutil.copytree(bench.model["text"]["path"], folder)
    names = [name_of(bench, adapter, str(folder), said) for folder in folders]
    assert names[0] == names[1] and not said
    change(folders[1])
    if suffix == "bin":  # pickled weights have a name of their own and count as well
        for folder in folders:
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert name_of(bench, adapter, str(folders[0]), said) != name_of(bench, adapter, str(folders[1]), said)


def test_the_type_that_a_folder_is_loaded_in_is_part_of_its_name(bench: Bench, adapter: Adapter) -> None:
    """Under LoRA a run in half precision loads a folder so, and without LoRA in float32."""

    def name(**sections: Any) -> str:
        reference = {"name": "cached", "path": bench.model["text"]["path"]}
        config = bench.config("text", "none", reference=reference, **sections)
        return reference_name(config, adapter, lambda line: None)

    lora = {"rank": 2}
    assert name(train={"precision": "bf16"}) != name(train={"precision": "bf16"}, lora=lora)
    assert name() == name(lora=lora)  # float32 both times


def test_how_a_run_scores_is_part_of_the_name(bench: Bench) -> None:
    """Weights and preparation are the same: precision and the settings of the model section count too."""
    adapter = build_policy(bench.config("image", "none"), torch.device("cpu"))

    def name(precision: str = "fp32", **model: Any) -> str:
        config = bench.config("image", "none", model=model, train={"precision": precision})
        return reference_name(config, adapter, lambda line: None)

    names = [name(), name("bf16"), name(weighting="min_snr"), name(caption_dropout=0.5)]
    assert len(set(names)) == 4
    assert name(generation={"steps": 9}) == name()  # sampling has no part in scores
