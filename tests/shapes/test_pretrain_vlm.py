"""Pretraining of the vision-language model: stages follow each other, resuming is exact, misuse refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmalign.shapes.habits import CLIP_HABITS, NO_HABITS, PICTURE_HABITS
from mmalign.shapes.pretrain_vlm import (
    CLIP_WEIGHTS,
    PICTURE_WEIGHTS,
    STAGES,
    Stage,
    chain_of,
    main,
    new_learner,
    run_stage,
)
from mmalign.shapes.vlm_batch import Mix
from mmalign.types import UserError

SMALL = Stage("small", None, 4, Mix(2, 3, PICTURE_WEIGHTS, CLIP_WEIGHTS), 1e-3, warmup=1, clips=0.5)
DENSE_ONLY = replace(SMALL, name="dense", steps=2, speaks=False, tower=1.0)


def test_a_run_stopped_and_resumed_equals_a_straight_one(tmp_path: Path) -> None:
    straight = run_stage(tmp_path / "straight", SMALL)
    run_stage(tmp_path / "resumed", SMALL, stop_at=2)
    resumed = run_stage(tmp_path / "resumed", SMALL)
    start = new_learner()
    for (name, weight), other, first in zip(
        straight.named_parameters(), resumed.parameters(), start.parameters(), strict=True
    ):
        assert torch.equal(weight, other), name
        assert not torch.equal(weight, first), name


def test_a_dense_stage_trains_the_tower_and_leaves_the_language_model(tmp_path: Path) -> None:
    learner, start = run_stage(tmp_path, DENSE_ONLY), dict(new_learner().named_parameters())
    for name, weight in learner.named_parameters():
        trained = name.startswith(("vlm.model.visual", "heads"))
        assert torch.equal(weight, start[name]) != trained, name


def test_a_stage_needs_the_end_of_the_one_before(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="step 0 of .*run stage tower to its end first"):
        run_stage(tmp_path, STAGES["first"])


def test_a_state_made_with_other_settings_is_refused(tmp_path: Path) -> None:
    run_stage(tmp_path, SMALL, stop_at=1)
    with pytest.raises(UserError, match="other settings; use another folder"):
        run_stage(tmp_path, replace(SMALL, lr=2e-3))


def test_settings_must_be_positive() -> None:
    with pytest.raises(UserError, match="stage small: steps 0"):
        replace(SMALL, steps=0)


def test_clips_come_as_often_as_told() -> None:
    assert [SMALL.is_clip_step(step) for step in range(4)] == [False, True, False, True]
    assert not any(replace(SMALL, clips=0.0).is_clip_step(step) for step in range(50))
    assert sum(replace(SMALL, clips=0.9).is_clip_step(step) for step in range(100)) == 90


def test_habits_come_last() -> None:
    assert [stage.name for stage in chain_of("vlm")] == ["tower", "first", "second", "vlm"]
    assert [stage.name for stage in chain_of("video")] == ["tower", "first", "second", "video"]
    assert all(STAGES[name].mix.habits == NO_HABITS for name in ("tower", "first", "second"))
    assert STAGES["vlm"].mix.habits == PICTURE_HABITS and STAGES["video"].mix.habits == CLIP_HABITS


def test_the_command_line_trains_exports_and_writes_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = replace(SMALL, name="vlm", after="dense", steps=1, mix=replace(SMALL.mix, habits=PICTURE_HABITS))
    monkeypatch.setattr("mmalign.shapes.pretrain_vlm.STAGES", {"dense": DENSE_ONLY, "vlm": last})
    target = tmp_path / "model"
    arguments = ["vlm", "--work", str(tmp_path / "work"), "--export", str(target), "--num", "2"]
    main(arguments)
    card = target / "README.md"
    first = card.read_text()
    assert "2 steps of stage dense, 1 steps of stage vlm" in first and "| hallucinate |" in first
    assert all(len(line) <= 110 or line.startswith("|") for line in first.splitlines())
    weights = (target / "model.safetensors").read_bytes()
    card.unlink()
    main([*arguments, "--figures"])
    assert card.read_text() == first and (target / "model.safetensors").read_bytes() == weights
