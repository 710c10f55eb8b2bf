"""Checkpoints: exact contents, every kind of damage noticed, released formats."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_states import found_state, progress, same, small, steps
from faults import ALONE, flip_byte, truncate

from mmalign.training import _files
from mmalign.training._manifest import Entry, render_manifest
from mmalign.training._state import join, restore_tensors, split, trainable_tensors
from mmalign.training.checkpoint import (
    CheckpointError,
    CheckpointState,
    latest,
    load,
    save,
)

FORMATS = Path(__file__).parent / "formats"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a process loses nothing that was written; only a power cut, not tried here, would."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ---------------------------------------------------------------- contents


def optimizer_of(kind: str, model: torch.nn.Module) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.1)
    return torch.optim.AdamW(
        model.parameters(), lr=0.01, betas=(0.9, 0.95), fused=kind == "fused", amsgrad=kind == "amsgrad"
    )


def trained(kind: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    optimizer = optimizer_of(kind, model)
    for _ in range(3):
        advance(model, optimizer)
    return model, optimizer


def advance(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.sin(parameter.detach() * 7)
    optimizer.step()


@pytest.mark.parametrize("kind", ["plain", "fused", "amsgrad", "sgd"])
def test_optimizer_and_model_go_on_bit_for_bit(tmp_path: Path, kind: str) -> None:
    model, optimizer = trained(kind)
    state = CheckpointState(progress(3), trainable_tensors(model), optimizer.state_dict())
    save(tmp_path, state, ALONE, keep=1)
    back = found_state(tmp_path)
    assert same(back.optimizer, optimizer.state_dict())

    other = torch.nn.Linear(5, 3)
    resumed = optimizer_of(kind, other)
    restore_tensors(other, back.model)
    resumed.load_state_dict(dict(back.optimizer))
    for _ in range(4):
        advance(model, optimizer)
        advance(other, resumed)
    assert same(trainable_tensors(other), trainable_tensors(model))
    assert same(resumed.state_dict(), optimizer.state_dict())


def test_every_part_of_a_state_returns(tmp_path: Path) -> None:
    odd = torch.tensor([float("nan"), -0.0, 1e-45, float("inf")])
    state = replace(
        small(7),
        model={"odd": odd, "half": odd.bfloat16().view(torch.int16), "empty": torch.zeros(0, 3)},
        progress=progress(
            7,
            extra={"best": 0.1 + 0.2, "round": [1, None, True], "sum": (float("inf"), 2.0)},
            skipped={"nan": 2},
        ),
    )
    save(tmp_path, state, ALONE, keep=1)
    back = found_state(tmp_path)
    assert same(vars(back), vars(state))


def test_shared_and_strided_tensors_are_stored_whole(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    state = replace(small(1), model={"a": base, "tied": base, "row": base[1], "turned": base.t()})
    save(tmp_path, state, ALONE, keep=1)
    back = found_state(tmp_path).model
    assert all(torch.equal(back[name], tensor) for name, tensor in state.model.items())


def test_a_loaded_state_no_longer_needs_its_files(tmp_path: Path) -> None:
    path = save(tmp_path, small(1), ALONE, keep=1)
    back = found_state(tmp_path)
    for file in path.iterdir():
        truncate(file, 0)
    assert same(vars(back), vars(small(1)))


def test_nested_states_split_and_join() -> None:
    tree = {
        "g": [{"lr": torch.tensor(0.1), "betas": (0.9, 0.99), "bound": float("-inf")}],
        "odd": {"$tuple": [1]},
        "by number": {3: {"x": [None, "s", 2, True, 1.0]}, "3": ()},
    }
    tensors, skeleton = split(tree)
    assert list(tensors) == ["g.0.lr"]
    assert same(join(tensors, json.loads(json.dumps(skeleton, allow_nan=False))), tree)


def test_the_same_state_gives_the_same_bytes_and_no_path(tmp_path: Path) -> None:
    first = save(tmp_path / "one", small(2), ALONE, keep=1)
    second = save(tmp_path / "another" / "place", small(2), ALONE, keep=1)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        data = (first / name).read_bytes()
        assert data == (second / name).read_bytes()
        assert os.fsencode(tmp_path) not in data
        assert (first / name).stat().st_mode & 0o777 == first.stat().st_mode & 0o666


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (replace(small(1), progress=progress(1, extra={"loss": torch.zeros(2)})), "extra.loss"),
        (replace(small(1), progress=progress(1, extra={"seen": {"a"}})), "extra.seen' is a set"),
        (replace(small(1), optimizer={"state": {0: {"rng": object()}}}), "state.0.rng"),
    ],
)
def test_what_cannot_be_stored_exactly_is_refused(tmp_path: Path, state: CheckpointState, name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        save(tmp_path, state, ALONE, keep=1)
    assert steps(tmp_path) == []


def test_weights_that_do_not_fit_are_named_and_nothing_changes() -> None:
    model = torch.nn.Linear(2, 3)
    before = {name: value.clone() for name, value in trainable_tensors(model).items()}
    saved = {"weight": torch.ones(3, 3), "extra": torch.ones(1)}
    with pytest.raises(
        ValueError, match=r"bias is missing; extra is not .*; weight is .*\[3, 3\], needs .*\[3, 2\]"
    ):
        restore_tensors(model, saved)
    assert same(trainable_tensors(model), before)


# ---------------------------------------------------------------- damage


def two_checkpoints(folder: Path) -> Path:
    """Checkpoints of step 1 and 2; returns the newer, which the tests damage."""
    save(folder, small(1), ALONE, keep=2)
    return save(folder, small(2), ALONE, keep=2)


def falls_back(folder: Path, name: str) -> bool:
    """The older checkpoint is chosen, and one warning names the file."""
    scan = latest(folder)
    assert scan.found is not None and scan.broken == ("step-000002",)
    assert (folder / "checkpoints" / "step-000002").is_dir(), "a broken checkpoint is left where it is"
    return scan.found.step == 1 and len(scan.warnings) == 1 and name in scan.warnings[0]


NAMES = (
    "manifest.json",
    "model.safetensors",
    "objective.safetensors",
    "optimizer.json",
    "optimizer.safetensors",
    "trainer.json",
)


def test_the_damage_tests_cover_every_file(tmp_path: Path) -> None:
    assert tuple(sorted(path.name for path in two_checkpoints(tmp_path).iterdir())) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_byte_is_noticed(tmp_path: Path, name: str) -> None:
    file = two_checkpoints(tmp_path) / name
    whole = file.read_bytes()
    for offset in range(0, len(whole), 7 if name == "manifest.json" else 31):
        flip_byte(file, offset)
        assert falls_back(tmp_path, name), offset
        file.write_bytes(whole)
    assert latest(tmp_path).broken == ()
    assert found_state(tmp_path).progress.step == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_shortened_lengthened_or_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    file = two_checkpoints(tmp_path) / name
    whole = file.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\n"):
        file.write_bytes(content)
        assert falls_back(tmp_path, name)
    file.unlink()
    assert falls_back(tmp_path, name)


def test_an_edited_hash_a_moved_folder_and_another_format_are_noticed(tmp_path: Path) -> None:
    newer = two_checkpoints(tmp_path)
    manifest = newer / "manifest.json"
    text = manifest.read_text()
    tree = json.loads(text)
    edits: list[dict[str, Any]] = [{"world_size": 2}, {"format": 2}, {"digest": "0" * 64}, {"files": []}]
    for edit in edits:
        manifest.write_text(json.dumps(tree | edit, indent=1, sort_keys=True) + "\n")
        assert falls_back(tmp_path, "manifest.json"), edit
    manifest.write_text(text.replace(tree["files"][0]["sha256"], "f" * 64))
    assert falls_back(tmp_path, "manifest.json")
    manifest.write_bytes((tmp_path / "checkpoints/step-000001/manifest.json").read_bytes())
    assert falls_back(tmp_path, "manifest.json is of step 1")


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    newer = two_checkpoints(tmp_path)
    outside = tmp_path / "outside"
    outside.write_bytes(b"x")
    entry = Entry("../../outside", 1, _files.sha256(outside))
    (newer / "manifest.json").write_bytes(render_manifest(2, 1, [entry]))
    assert falls_back(tmp_path, "outside is missing")


def test_nothing_to_find_is_not_an_error(tmp_path: Path) -> None:
    assert latest(tmp_path / "none").found is None


def test_a_broken_checkpoint_makes_room_for_the_same_step(tmp_path: Path) -> None:
    flip_byte(two_checkpoints(tmp_path) / "model.safetensors", -1)
    said: list[str] = []
    save(tmp_path, small(2), ALONE, 2, warn=said.append)
    assert steps(tmp_path) == ["step-000001", "step-000002", "step-000002.broken-0"]
    assert len(said) == 1 and "model.safetensors" in said[0]
    assert found_state(tmp_path).progress.step == 2


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    path = two_checkpoints(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    assert save(tmp_path, small(2), ALONE, keep=2) == path
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before
    with pytest.raises(CheckpointError, match="already holds another state"):
        save(tmp_path, small(2, value=1.0), ALONE, keep=2)
    assert steps(tmp_path) == ["step-000001", "step-000002"]
    assert same(found_state(tmp_path).model, small(2).model)


# ---------------------------------------------------------------- released formats


def test_checkpoints_of_format_1_keep_loading() -> None:
    """Those of the first releases may hold a file per process, which nothing needs."""
    found = latest(FORMATS / "1").found
    assert found is not None and found.step == 2
    state = load(found)
    assert torch.equal(state.model["w"], torch.tensor([2.0, 3.0, 4.0, 5.0]))
    assert state.optimizer["state"][0]["step"] == 2.0 and state.optimizer["param_groups"] == [{"lr": 0.1}]
    assert state.objective["kl"] == torch.tensor(2 / 3)
    assert state.progress == small(2).progress
