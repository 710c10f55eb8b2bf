"""Alpha-DPO: worked values, the limit of small alpha, flipped pairs, and the schedule over the step."""

import math

import pytest
import torch
from fixtures import agreeing, fixture_f, fixture_f1, from_ratios, near, run

from mmalign.objectives.alpha_dpo import AlphaDPO


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_worked_loss_on_denoising_errors() -> None:
    assert run(AlphaDPO(beta=500.0), fixture_f1()[0]).loss.mean().item() == pytest.approx(0.1881330, abs=2e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_the_printed_form(alpha: float) -> None:
    losses = run(AlphaDPO(500.0, alpha), fixture_f1()[0]).loss.tolist()
    for z, loss in zip((3.75, -0.75), losses, strict=True):
        u = sigmoid(z)
        assert loss == pytest.approx((u**alpha - alpha * u - (1 - alpha)) / (alpha * (alpha - 1)), abs=1e-9)


def test_alpha_zero_is_the_limit() -> None:
    expected = [-math.log(sigmoid(z)) + sigmoid(z) - 1 for z in (3.75, -0.75)]
    assert near(run(AlphaDPO(500.0, 0.0), fixture_f1()[0]).loss, expected, 1e-12)
    assert near(run(AlphaDPO(500.0, 1e-9), fixture_f1()[0]).loss, expected, 1e-8)


@pytest.mark.parametrize("beta", [0.1, 2000.0])
def test_value_where_policy_and_reference_agree(beta: float) -> None:
    for scores in (fixture_f(), fixture_f1()[0]):
        assert near(run(AlphaDPO(beta), agreeing(scores)).loss, [0.171573, 0.171573], 1e-6)


def test_gradient_lowers_the_chosen_error_and_raises_the_rejected() -> None:
    scores, errors = fixture_f1()
    run(AlphaDPO(beta=500.0), scores).loss.sum().backward()
    assert (errors["chosen"].grad > 0).all() and (errors["rejected"].grad < 0).all()


def test_a_pair_far_on_the_wrong_side_is_let_go() -> None:
    """Its pull is beta e^(alpha z) / (1 - alpha); alpha 0 keeps pulling with beta, as DPO does."""
    h = torch.tensor([-100.0, -200.0, -4e4], dtype=torch.float64)
    for alpha in (0.0, 0.5):
        scores, leaves = from_ratios(chosen=h, rejected=torch.zeros(3, dtype=torch.float64))
        loss = run(AlphaDPO(alpha=alpha), scores).loss
        loss.sum().backward()
        pull = [-0.1 * math.exp(alpha * 0.1 * float(v)) / (1 - alpha) for v in h]
        assert leaves["chosen"].grad[:, 0].tolist() == pytest.approx(pull, rel=1e-2)
        assert alpha == 0 or loss.max().item() <= 1 / alpha


def test_the_schedule_scales_alpha_by_the_mean_confidence_of_the_step() -> None:
    scheduled = AlphaDPO(500.0, 0.8, "confidence")
    assert scheduled.batch_coupled and not AlphaDPO().batch_coupled
    now = 0.8 * (sigmoid(3.75) + sigmoid(-0.75)) / 2
    outcome = run(scheduled, fixture_f1()[0])
    assert near(outcome.metrics["alpha"], [now, now], 1e-9)
    assert near(outcome.loss, run(AlphaDPO(500.0, now), fixture_f1()[0]).loss.tolist(), 1e-9)


def test_the_schedule_carries_no_gradient() -> None:
    now = 0.8 * (sigmoid(3.75) + sigmoid(-0.75)) / 2
    gradients = []
    for objective in (AlphaDPO(500.0, 0.8, "confidence"), AlphaDPO(500.0, now)):
        scores, errors = fixture_f1()
        run(objective, scores).loss.sum().backward()
        gradients.append(errors["chosen"].grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-9)


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("alpha", -0.1), ("alpha", 1.0)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        AlphaDPO(**{field: value})


def test_a_schedule_needs_something_to_scale() -> None:
    with pytest.raises(ValueError, match="^schedule: confidence needs alpha above 0"):
        AlphaDPO(alpha=0.0, schedule="confidence")
