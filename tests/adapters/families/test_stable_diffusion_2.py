"""Stable Diffusion 2.x in the diffusion adapter: one tower, a denoiser that predicts velocity."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import every_check
from adapters.family_subject import Subject
from torch import Tensor


def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """The states are the tower's last ones, all 77 attended to."""
    tokens = pipeline.tokenizer(caption, padding="max_length", max_length=77, return_tensors="pt")
    states = pipeline.text_encoder(tokens.input_ids).last_hidden_state
    return pipeline.unet(noised, time, encoder_hidden_states=states).sample


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject("sd2", tiny.FAMILIES["sd2"](tmp_path_factory.mktemp("sd2") / "sd2", 0), predict)


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_the_target_is_the_velocity(subject: Subject) -> None:
    """a eps - s x0 with a^2 the share of signal left, worked out at one level."""
    adapter = subject.adapter()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    left = float((1 - betas[:301]).prod())
    x0, eps = torch.full((1, 4, 8, 8), 0.3), torch.full((1, 4, 8, 8), -0.8)
    target = adapter._schedule.target(x0, eps, torch.tensor([300]))
    assert float(target[0, 0, 0, 0]) == pytest.approx(left**0.5 * -0.8 - (1 - left) ** 0.5 * 0.3, abs=1e-6)
