"""Hinge with a reference: worked values, the flat part, denoising errors."""

import pytest
import torch
from fixtures import agreeing, fixture_f, fixture_f1, from_ratios, near, run, total_gradients

from mmalign.objectives.hinge import Hinge


def test_worked_losses() -> None:
    assert near(run(Hinge(), fixture_f()).loss, [0.92, 1.07])


def test_gradients_are_beta_on_both_sides() -> None:
    assert total_gradients(Hinge(), "chosen") == pytest.approx([-0.1, -0.1], abs=1e-12)
    assert total_gradients(Hinge(), "rejected") == pytest.approx([0.1, 0.1], abs=1e-12)


@pytest.mark.parametrize("beta", [0.1, 2000.0])
def test_one_where_policy_and_reference_agree(beta: float) -> None:
    for scores in (fixture_f(), fixture_f1()[0]):
        assert near(run(Hinge(beta), agreeing(scores)).loss, [1.0, 1.0], 1e-12)


def test_a_pair_that_is_apart_by_enough_is_left_alone() -> None:
    scores, leaves = from_ratios(chosen=torch.tensor([9.9, 10.1]), rejected=torch.zeros(2))
    outcome = run(Hinge(), scores)
    outcome.loss.sum().backward()
    assert near(outcome.loss, [0.01, 0.0], 1e-6)
    assert near(leaves["chosen"].grad[:, 0], [-0.1, 0.0], 1e-7)
    assert outcome.metrics["inactive"].tolist() == [0.0, 1.0]


def test_extreme_margins() -> None:
    h = torch.tensor([1e4, -1e4])
    scores, leaves = from_ratios(chosen=h, rejected=-h)
    loss = run(Hinge(), scores).loss
    loss.sum().backward()
    assert near(loss, [0.0, 2001.0], 1e-3)
    assert near(leaves["rejected"].grad[:, 0], [0.0, 0.1], 1e-7)


def test_worked_losses_on_denoising_errors() -> None:
    """beta * margin is 3.75 and -0.75 at beta 500."""
    loss = run(Hinge(500.0), fixture_f1()[0]).loss
    assert near(loss, [0.0, 1.75], 1e-9) and loss.mean().item() == pytest.approx(0.875, abs=1e-9)


def test_float32_and_bfloat16_agree_with_float64() -> None:
    assert near(run(Hinge(), fixture_f(dtype=torch.float32)).loss, [0.92, 1.07], 1e-6)
    assert near(run(Hinge(), fixture_f(dtype=torch.bfloat16)).loss, [0.92, 1.07], 0.02)


def test_ranges() -> None:
    with pytest.raises(ValueError, match=r"^beta: must be above 0, got 0"):
        Hinge(beta=0.0)
