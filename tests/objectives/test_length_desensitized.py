"""Length-desensitized scores before DPO."""

import pytest
import torch
from fixtures import ALL_MEAN, fixture_f, fixture_f1, from_ratios, near, run

from mmalign.objectives._transforms.length_desensitized import LengthDesensitized
from mmalign.objectives.dpo import DPO


@pytest.mark.parametrize("extra", [0, 3])
def test_worked_losses(extra: int) -> None:
    scores = LengthDesensitized(alpha=0.5)(fixture_f(extra), {}, ALL_MEAN).scores
    outcome = run(DPO(), scores)
    assert near(outcome.metrics["reward/margin"], [0.065, -0.07])
    assert near(outcome.loss, [0.661175, 0.728760])


def test_alpha_one_changes_nothing() -> None:
    scores = fixture_f()
    same = LengthDesensitized(alpha=1.0)(scores, {}, ALL_MEAN).scores
    for source, roles in scores.items():
        for role, side in roles.items():
            assert torch.equal(same[source][role].values, side.values)


def test_alpha_zero_compares_equal_lengths() -> None:
    """Of the first pair only two tokens per side count: (0.1 + 0.1) - (-0.2 - 0.1)."""
    scores = LengthDesensitized(alpha=0.0)(fixture_f(), {}, ALL_MEAN).scores
    assert near(run(DPO(), scores).metrics["reward/margin"], [0.05, -0.07])


def test_masks_and_lengths_stay() -> None:
    scores = fixture_f()
    changed = LengthDesensitized()(scores, {}, ALL_MEAN).scores
    for role in ("chosen", "rejected"):
        assert torch.equal(changed["policy"][role].mask, scores["policy"][role].mask)
        assert torch.equal(changed["policy"][role].length, scores["policy"][role].length)


def test_gradient_reaches_late_tokens_scaled() -> None:
    scores = fixture_f()
    run(DPO(), LengthDesensitized(alpha=0.25)(scores, {}, ALL_MEAN).scores).loss.sum().backward()
    gradient = scores["policy"]["chosen"].values.grad[0]
    assert torch.allclose(gradient / gradient[0], torch.tensor([1.0, 1.0, 0.25, 0.25], dtype=torch.float64))


def test_scores_without_a_pair_pass_unchanged() -> None:
    scores, _ = from_ratios(completion=torch.ones(3))
    assert (
        LengthDesensitized()(scores, {}, ALL_MEAN).scores["policy"]["completion"]
        is scores["policy"]["completion"]
    )


def test_draws_of_a_surrogate_are_no_tokens() -> None:
    assert LengthDesensitized().needs == {"units"}
    scores = fixture_f1()[0]
    same = LengthDesensitized(alpha=0.0)(scores, {}, ALL_MEAN).scores  # equal counts: nothing is late
    assert torch.equal(run(DPO(), same).loss, run(DPO(), scores).loss)


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_ranges(alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"^alpha: .*got {alpha}"):
        LengthDesensitized(alpha=alpha)
