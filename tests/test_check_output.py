"""An output folder is absent, empty, or holds a run of the same config; nothing else is touched."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from config_text import loaded, text

from mmalign.config import RunConfig, dump
from mmalign.training.checks import check_output
from mmalign.types import UserError

DIFFUSION = "{adapter: diffusion, path: m}"


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def config(overrides: Sequence[str] = (), **sections: str) -> RunConfig:
        return loaded(tmp_path, text(**sections), overrides, allow_code=True)

    return config


def into(make: Any, folder: Path, *overrides: str) -> RunConfig:
    config: RunConfig = make([f"output={folder}", *overrides])
    return config


def started(folder: Path, content: str) -> None:
    """A folder as a run leaves it, with this stored config."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(content)
    (folder / "run.json").write_text("{}")


def taken(config: RunConfig) -> str:
    with pytest.raises(UserError) as error:
        check_output(config)
    return str(error.value)


def test_absent_empty_and_own_folders_are_fine(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    check_output(into(make, folder))
    folder.mkdir()
    check_output(into(make, folder))
    (folder / ".lock").write_text("1")
    check_output(into(make, folder))
    started(folder, dump(into(make, folder)))
    check_output(into(make, folder))
    check_output(into(make, folder, "train.steps=500", "log.every=1", "train.workers=3"))
    check_output(into(make, folder, f"cache={tmp_path}"))


def test_a_file_is_no_folder(make: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    line = f"{tmp_path}/out is a file; choose a folder"
    assert taken(into(make, tmp_path / "out")) == f"output: {line}"
    assert taken(into(make, tmp_path / "out" / "deeper")) == f"output: {line}"
    assert taken(into(make, tmp_path / "new", f"cache={tmp_path}/out")) == f"cache: {line}"


def test_a_folder_of_something_else_is_left_alone(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    assert "is not empty and holds no run" in taken(into(make, folder))
    (folder / "config.yaml").write_text(dump(into(make, folder)))  # the user's own copy: no run wrote here
    assert "is not empty and holds no run" in taken(into(make, folder))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective.beta=0.5", "objective.beta was 0.1, is 0.5"),
        ("seed=4", "seed was 0, is 4"),
        ("data.path=e", "data.path was 'd.jsonl', is 'e'"),
        ("lora.rank=4", "lora was None"),
        ("train.lr=1e-3", "train.lr was 1e-05, is 0.001"),
        ("model.generation.temperature=0.5", "model.generation.temperature was 1.0, is 0.5"),
    ],
)
def test_a_run_of_another_config_is_refused_with_the_difference(
    override: str, words: str, make: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    started(folder, dump(into(make, folder)))
    line = taken(into(make, folder, override))
    assert words in line and "\n" not in line and "choose another folder" in line


def test_a_damaged_stored_config_is_named(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    started(folder, "model: [")
    assert f"{folder}/config.yaml" in taken(into(make, folder))


def test_only_the_difference_that_counts_is_named(make: Any, tmp_path: Path) -> None:
    """Free fields stand before it in the file; a field of such a name elsewhere is not free."""
    folder = tmp_path / "out"
    started(folder, dump(into(make, folder)))
    line = taken(into(make, folder, "train.workers=2", "train.timeout_s=5", "train.steps=9", "seed=1"))
    assert "(seed was 0, is 1)" in line
    image = make([f"output={tmp_path}/image"], model=DIFFUSION)
    started(tmp_path / "image", dump(image))
    steps = make([f"output={tmp_path}/image", "model.generation.steps=7"], model=DIFFUSION)
    assert f"(model.generation.steps was {image.model.generation.steps}, is 7)" in taken(steps)


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=7",
        "train.save_every=2",
        "train.keep=9",
        "train.eval_every=3",
        "train.workers=3",
        "train.timeout_s=7",
        "log.every=3",
        "cache=elsewhere",
        "evaluation.seed=4",
    ],
)
def test_the_refusal_lists_what_may_change_and_that_is_true(override: str, make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    started(folder, dump(into(make, folder)))
    check_output(into(make, folder, override))
    section, _, name = override.partition("=")[0].partition(".")
    sections, fields = taken(into(make, folder, "seed=9")).rpartition("only ")[2].split(" and train.")
    assert (name if section == "train" else section) in (fields if section == "train" else sections)
