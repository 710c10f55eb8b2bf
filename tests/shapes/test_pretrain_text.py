"""Pretraining of the story model: resuming is exact, settings are checked, batches are what they say."""

from pathlib import Path

import pytest
import torch

from mmalign.shapes.pretrain_text import STATE_FILE, PretrainSettings, main, pretrain, training_batch
from mmalign.shapes.stories import heldout_prompts
from mmalign.shapes.tiny_llama import build_model, build_tokenizer, load_story_model, sample_stories
from mmalign.types import UserError

SMALL = PretrainSettings(steps=6, batch=2, warmup=2)


def test_a_run_stopped_and_resumed_equals_a_straight_one(tmp_path: Path) -> None:
    straight, _ = pretrain(tmp_path / "straight", SMALL)
    pretrain(tmp_path / "resumed", SMALL, stop_at=3)
    resumed, _ = pretrain(tmp_path / "resumed", SMALL)
    start = build_model(build_tokenizer(), SMALL.seed)
    for (name, weight), other, first in zip(
        straight.named_parameters(), resumed.parameters(), start.parameters(), strict=True
    ):
        assert torch.equal(weight, other), name
        assert not torch.equal(weight, first), name


def test_a_saved_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    pretrain(tmp_path, SMALL, stop_at=1)
    with pytest.raises(UserError, match=f"{STATE_FILE}.*use another folder"):
        pretrain(tmp_path, PretrainSettings(steps=7, batch=2, warmup=2))


def test_settings_must_be_positive() -> None:
    with pytest.raises(UserError, match="steps is 0"):
        PretrainSettings(steps=0)


def test_learning_rate_warms_up_and_falls_to_a_twentieth() -> None:
    settings = PretrainSettings(steps=1100, lr=1.0, warmup=100)
    assert settings.lr_at(0) == pytest.approx(0.01)
    assert settings.lr_at(99) == settings.lr_at(100) == 1.0
    assert settings.lr_at(600) == pytest.approx(0.525)
    assert settings.lr_at(1100) == pytest.approx(0.05)


def test_batches_depend_on_seed_and_step_only_and_score_the_answer() -> None:
    tokenizer = build_tokenizer()
    batch = training_batch(tokenizer, SMALL, 4)
    again = training_batch(tokenizer, SMALL, 4)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert not torch.equal(
        batch["input_ids"][:, :40], training_batch(tokenizer, SMALL, 5)["input_ids"][:, :40]
    )
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        prompt, answer = tokenizer.decode(ids).split("<|im_start|>assistant\n")
        assert tokenizer.decode(labels[labels != -100]) == answer.replace("<pad>", "")
        assert prompt.startswith("<|im_start|>user\n") and answer.replace("<pad>", "").endswith(
            ".<|im_end|>\n"
        )
    heldout = set(heldout_prompts(288, 0))
    for row in batch["input_ids"]:
        assert not any(prompt in tokenizer.decode(row) for prompt in heldout)


def test_training_from_the_command_line_writes_a_loadable_model(tmp_path: Path) -> None:
    arguments = ["train", "--steps", "2", "--batch", "2"]
    main([*arguments, "--folder", str(tmp_path / "run"), "--export", str(tmp_path / "model")])
    model, tokenizer = load_story_model(tmp_path / "model")
    assert model.dtype == torch.float32
    assert len(sample_stories(model, tokenizer, heldout_prompts(2, 0), seed=0)) == 2
