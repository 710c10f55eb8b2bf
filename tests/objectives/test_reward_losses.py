"""Losses on the reward of sampled media: worked numbers, signs and settings."""

from typing import Any

import pytest
import torch
from fixtures import ALL_MEAN

from mmalign.objectives.alignprop import AlignProp
from mmalign.objectives.draft import DRaFT
from mmalign.objectives.longalign import LongAlign
from mmalign.objectives.refl import ReFL
from mmalign.types import Objective


def loss(objective: Objective, *rewards: float) -> tuple[torch.Tensor, torch.Tensor]:
    reward = torch.tensor(rewards, dtype=torch.float64, requires_grad=True)
    outcome = objective({"policy": {}}, {"reward": reward}, {}, ALL_MEAN)
    outcome.loss.sum().backward()
    assert reward.grad is not None and torch.equal(outcome.metrics["reward"], reward.detach())
    return outcome.loss.detach(), reward.grad


def test_refl_in_numbers() -> None:
    found, gradient = loss(ReFL(), 0.5, 2.5)
    assert float(found.mean()) == pytest.approx(7.5e-4)
    assert gradient.tolist() == [-1e-3, 0.0]


def test_draft_is_the_reward() -> None:
    found, gradient = loss(DRaFT(), 0.5, -2.0)
    assert found.tolist() == [-0.5, 2.0] and gradient.tolist() == [-1.0, -1.0]


def test_alignprop_in_numbers() -> None:
    assert loss(AlignProp(), 0.25)[0].tolist() == pytest.approx([0.01 * 0.75])
    found, gradient = loss(AlignProp(target=10.0), 5.5, 12.0)
    assert found.tolist() == pytest.approx([0.045, 0.02]) and gradient.tolist() == [-0.01, 0.01]


def test_longalign_in_numbers() -> None:
    """The document's scores; released code subtracts the constant 0.09 * (1 - w), w = 0.3, from it."""
    found, gradient = loss(LongAlign(), 0.352, 0.52)
    assert float(found.mean()) - 0.09 * 0.7 == pytest.approx(0.219)
    assert gradient.tolist() == [-0.5, -0.5]


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (ReFL, {"first": 40, "last": 40}),
        (ReFL, {"scale": 0.0}),
        (DRaFT, {"last": 51}),
        (AlignProp, {"mean": 50.0}),
        (AlignProp, {"deviation": 0.0}),
        (LongAlign, {"every": 0}),
        (LongAlign, {"guidance": 0.0}),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        make(**fields)
