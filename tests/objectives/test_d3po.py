"""D3PO: worked steps, the bounds of its loss, and steps that the clamp holds."""

import pytest
import torch
from fixtures import LN2, agreeing, at_levels, near, run, steps_with, units

from mmalign.objectives.d3po import D3PO


def test_worked_loss() -> None:
    scores, _ = steps_with(chosen=[[0.05, 0.20]], rejected=[[-0.02, 0.0]])
    outcome = run(D3PO(), scores)
    assert near(outcome.loss, [0.6890232])
    assert outcome.metrics["clip_fraction"].tolist() == [0.25]


def test_density_of_a_step() -> None:
    """The mean over elements, of which the constants are in use: 1.0711466 for x, mu and sd = 0.1."""
    x, mu = torch.tensor([0.1, -0.2], dtype=torch.float64), torch.tensor([0.15, -0.1], dtype=torch.float64)
    density = torch.distributions.Normal(mu, 0.1).log_prob(x)
    assert density.mean().item() == pytest.approx(1.0711466, abs=1e-7)


def test_ln2_where_policy_and_reference_agree() -> None:
    scores, _ = steps_with(chosen=[[0.3, -2.0], [1.0, 1.0]], rejected=[[0.1, 0.2], [-5.0, 0.0]])
    outcome = run(D3PO(), agreeing(scores))
    assert near(outcome.loss, [LN2, LN2], 1e-12)
    assert outcome.metrics["implicit_acc"].tolist() == [0.5, 0.5]


def test_the_loss_hardly_moves() -> None:
    """log(1.1) and log(0.9) apart at most: 0.683164 and 0.703231."""
    scores, leaves = steps_with(chosen=[[50.0], [-50.0]], rejected=[[-50.0], [50.0]])
    loss = run(D3PO(), scores).loss
    loss.sum().backward()
    assert near(loss, [0.683164, 0.703231], 1e-6)
    assert not leaves["chosen"].grad.any()  # held steps have no gradient


def test_steps_near_the_picture_are_left_out() -> None:
    """The worked steps, and behind them some that would be held and would change the loss."""
    scores, leaves = steps_with(chosen=[[0.05, 0.20, 9.0]], rejected=[[-0.02, 0.0, -9.0]])
    outcome = run(D3PO(above=0.3), at_levels(scores, [0.9, 0.6, 0.3]))
    outcome.loss.sum().backward()
    assert near(outcome.loss, [0.6890232])
    assert outcome.metrics["clip_fraction"].tolist() == [0.25]
    assert leaves["rejected"].grad[0, 1] > 0 and not leaves["rejected"].grad[0, 2]


def test_gradient_raises_chosen_steps_and_lowers_rejected_ones() -> None:
    scores, leaves = steps_with(chosen=[[0.0, 0.0]], rejected=[[0.0, 0.0]])
    run(D3PO(), scores).loss.sum().backward()
    assert near(leaves["chosen"].grad[0], [-0.025, -0.025], 1e-12)
    assert near(leaves["rejected"].grad[0], [0.025, 0.025], 1e-12)


def test_the_mean_over_steps_leaves_out_padding() -> None:
    scores, _ = steps_with(chosen=[[0.05, 0.20, 7.5]], rejected=[[-0.02, 0.0, -7.5]])
    mask = torch.tensor([[True, True, False]])
    cut = {
        s: {r: units(side.values, "step", mask) for r, side in roles.items()} for s, roles in scores.items()
    }
    outcome = run(D3PO(), cut)
    assert near(outcome.loss, [0.6890232]) and outcome.metrics["clip_fraction"].tolist() == [0.25]


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("clip", 0.0), ("clip", 1.0), ("above", 1.0)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        D3PO(**{field: value})
