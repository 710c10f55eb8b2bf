"""DSPO: both released forms on whole predictions, and the safeguard before it."""

import math

import pytest
import torch
from fixtures import ALL_MEAN, agreeing, fixture_f1, fixture_f2, near, predicted, run
from torch import Tensor

from mmalign.objectives._transforms.sdpo import SDPO
from mmalign.objectives.dspo import DSPO

DOUBT = 1 - 1 / (1 + math.exp(-0.7))  # 1 - sigmoid(z) of fixture F2 at beta 20


def test_worked_losses() -> None:
    scores, _ = fixture_f2()
    assert near(run(DSPO(beta=0.001), scores).loss, [0.0400200], 1e-7)
    outcome = run(DSPO(20.0, "sdxl"), scores)
    assert near(outcome.loss, [0.1100994], 1e-7) and near(outcome.metrics["distance"], [0.01], 1e-12)
    assert near(outcome.metrics["reward/margin"], [0.7], 1e-9)


def test_gradients_of_the_sd15_form() -> None:
    """2 / 2 (u - beta c d)(1 - beta c) with u = 0.2, d = -0.1; and through c, which is not detached."""
    scores, leaves = fixture_f2()
    beta = 0.5
    run(DSPO(beta=beta), scores).loss.sum().backward()
    z = beta * 0.5 * 0.07
    c = 1 - 1 / (1 + math.exp(-z))
    inner = 0.2 + beta * c * 0.1
    through = beta * (-0.1) * c * (1 - c) * inner * 2  # d loss / d z, both elements
    # z falls by beta / 2 times the error: d e / d prediction = 2 u / 2 per element
    assert near(leaves["chosen"].grad[0, 0], [inner * (1 - beta * c) - through * beta / 2 * 0.2] * 2, 1e-9)
    rejected = [through * beta / 2 * u for u in (0.4, 0.1)]
    assert near(leaves["rejected"].grad[0, 0], rejected, 1e-9)


def test_the_winner_is_denoised_and_the_loser_hardly_matters() -> None:
    scores, leaves = fixture_f2()
    run(DSPO(), scores).loss.sum().backward()
    assert (leaves["chosen"].grad > 0.19).all()  # towards the target, which lies below
    assert leaves["rejected"].grad.abs().max() < 1e-6


def test_values_where_policy_and_reference_agree() -> None:
    same = agreeing(fixture_f2()[0])
    assert near(run(DSPO(), same).loss, [0.04], 1e-12)
    assert near(run(DSPO(2000.0, "sdxl"), same).loss, [0.25], 1e-12)


def test_the_sdxl_form_changes_where_the_step_is_far_from_the_reference() -> None:
    scores, _ = fixture_f2()
    near_by = run(DSPO(20.0, "sdxl"), scores).loss

    def elsewhere(values: Tensor, where: Tensor | None = None) -> Tensor:
        return torch.cat([values, torch.full_like(values, 0.19)]).mean()  # a mean of 0.1 over both processes

    far = DSPO(20.0, "sdxl")(scores, {}, {}, elsewhere).loss
    assert near(near_by, [DOUBT**2], 1e-9) and near(far, [DOUBT**2 * 0.01], 1e-9)
    assert DSPO(20.0, "sdxl").batch_coupled and not DSPO().batch_coupled


def test_the_sdxl_form_raises_the_margin() -> None:
    scores, leaves = fixture_f2()
    run(DSPO(20.0, "sdxl"), scores).loss.sum().backward()
    residual = {"chosen": torch.tensor([0.2, 0.2]), "rejected": torch.tensor([0.4, 0.1])}
    assert (leaves["chosen"].grad[0, 0] * residual["chosen"] > 0).all()
    assert (leaves["rejected"].grad[0, 0] * residual["rejected"] < 0).all()


def test_the_safeguard_scales_the_loser_here_too() -> None:
    scores, leaves = fixture_f2()
    run(DSPO(20.0, "sdxl"), SDPO(mu=0.6)(scores, {}, ALL_MEAN).scores).loss.sum().backward()
    guarded = leaves["rejected"].grad
    scores, leaves = fixture_f2()
    run(DSPO(20.0, "sdxl"), scores).loss.sum().backward()
    assert torch.allclose(guarded, 0.32 * leaves["rejected"].grad, rtol=1e-9)


def test_squares_are_means_over_draws_channels_and_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, 4, 5, 2, 2)  # draws, channels, frames, height, width
    target, ours, theirs = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    scores = {
        source: {role: predicted(made, target) for role in ("chosen", "rejected")}
        for source, made in (("policy", ours), ("reference", theirs))
    }
    expected = (ours - target - 0.005 * (ours - theirs)).square().flatten(1).mean(-1)
    assert near(run(DSPO(beta=0.01), scores).loss, expected.tolist(), 1e-12)


def test_scores_without_predictions_are_an_error() -> None:
    assert DSPO().needs == {"ratio", "prediction"}
    with pytest.raises(ValueError, match="^dspo: these scores carry no predictions"):
        run(DSPO(), fixture_f1()[0])


@pytest.mark.parametrize("value", [0.0, 2000.0])
def test_ranges(value: float) -> None:
    with pytest.raises(ValueError, match=rf"^beta: .*got {value}"):
        DSPO(beta=value)
