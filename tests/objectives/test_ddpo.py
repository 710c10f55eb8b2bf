"""DDPO: worked ratios, both clipped branches, and the policy gradient at the first step."""

import math

import pytest
import torch
from fixtures import at_levels, near, run, steps_with, units

from mmalign.objectives.ddpo import DDPO
from mmalign.types import UserError


def test_worked_losses() -> None:
    """Both on the clipped branch, so neither has a gradient."""
    scores, leaves = steps_with(completion=[[math.log(1.0003)], [math.log(0.9998)]])
    outcome = run(DDPO(), scores, {"advantage": torch.tensor([1.5, -0.5])})
    outcome.loss.sum().backward()
    assert near(outcome.loss, [-1.50015, 0.49995], 1e-7)
    assert outcome.loss.mean().item() == pytest.approx(-0.50010, abs=1e-7)
    assert not leaves["completion"].grad.any()
    assert outcome.metrics["clip_fraction"].tolist() == [1.0, 1.0]


def test_the_other_branches_keep_their_gradient() -> None:
    """A good picture that has become less likely, and a bad one that has become more likely."""
    scores, leaves = steps_with(completion=[[math.log(0.9998)], [math.log(1.0003)]])
    outcome = run(DDPO(), scores, {"advantage": torch.tensor([1.5, -0.5])})
    outcome.loss.sum().backward()
    assert near(outcome.loss, [-1.5 * 0.9998, 0.5 * 1.0003], 1e-7)
    assert near(leaves["completion"].grad[:, 0], [-1.5 * 0.9998, 0.5 * 1.0003], 1e-7)


def test_the_first_step_is_the_policy_gradient() -> None:
    scores, leaves = steps_with(completion=[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    outcome = run(DDPO(), scores, {"advantage": torch.tensor([1.5, -0.5, 0.0])})
    outcome.loss.sum().backward()
    assert near(outcome.loss, [-1.5, 0.5, 0.0], 1e-12)
    assert near(leaves["completion"].grad[:, 0], [-0.75, 0.25, 0.0], 1e-12)
    assert not any(outcome.metrics[name].any() for name in ("approx_kl", "clip_fraction"))


def test_advantages_are_cut() -> None:
    scores, _ = steps_with(completion=[[0.0], [0.0]])
    advantage = {"advantage": torch.tensor([12.0, -7.0])}
    assert near(run(DDPO(), scores, advantage).loss, [-5.0, 5.0], 1e-12)
    assert near(run(DDPO(advantage_clip=10.0), scores, advantage).loss, [-10.0, 7.0], 1e-12)


def test_padded_steps_do_not_count() -> None:
    scores, _ = steps_with(completion=[[math.log(0.9998), 7.5]])
    mask = torch.tensor([[True, False]])
    cut = {
        s: {r: units(side.values, "step", mask) for r, side in roles.items()} for s, roles in scores.items()
    }
    outcome = run(DDPO(), cut, {"advantage": torch.tensor([1.0])})
    assert near(outcome.loss, [-0.9998], 1e-7)
    assert near(outcome.metrics["approx_kl"], [0.5 * math.log(0.9998) ** 2], 1e-12)


def test_steps_near_the_picture_are_left_out() -> None:
    """Of levels 0.9, 0.5 and 0.1 the first alone is above 0.5; the others count in nothing."""
    scores, leaves = steps_with(completion=[[0.0, 3.0, -2.0], [0.0, 4.0, 0.5]])
    scores = at_levels(scores, [0.9, 0.5, 0.1])
    outcome = run(DDPO(above=0.5), scores, {"advantage": torch.tensor([1.5, -0.5])})
    outcome.loss.sum().backward()
    assert near(outcome.loss, [-1.5, 0.5], 1e-12)
    assert near(leaves["completion"].grad, [[-1.5, 0.0, 0.0], [0.5, 0.0, 0.0]], 1e-12)
    assert not any(outcome.metrics[name].any() for name in ("approx_kl", "clip_fraction"))
    with pytest.raises(UserError, match=r"^objective.above: no step .* above 0.9 of the noise schedule"):
        run(DDPO(above=0.9), scores, {"advantage": torch.tensor([1.5, -0.5])})


def test_a_policy_that_ran_away_stays_finite() -> None:
    scores, leaves = steps_with(completion=[[1e4], [-1e4], [1e4], [-1e4]])
    loss = run(DDPO(), scores, {"advantage": torch.tensor([1.0, 1.0, -1.0, -1.0])}).loss
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(leaves["completion"].grad).all()
    assert near(loss[[0, 1, 3]], [-1.0001, 0.0, 0.9999], 1e-9) and loss[2] > 1e8


@pytest.mark.parametrize(
    ("field", "value"),
    [("clip", 0.0), ("clip", 1.0), ("advantage_clip", 0.0), ("above", -0.1), ("above", 1.0)],
)
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        DDPO(**{field: value})
