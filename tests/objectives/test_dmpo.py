"""DMPO: the worked value on denoising errors, its optimum, and pairs it lets go."""

import math

import pytest
import torch
from fixtures import agreeing, fixture_f, fixture_f1, from_ratios, near, run

from mmalign.objectives.dmpo import DMPO


def test_worked_loss_on_denoising_errors() -> None:
    assert run(DMPO(beta=500.0), fixture_f1()[0]).loss.mean().item() == pytest.approx(1.2548472, abs=2e-6)


def test_it_is_the_divergence_of_two_coins() -> None:
    for z, loss in zip((3.75, -0.75), run(DMPO(500.0, 0.2), fixture_f1()[0]).loss.tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        assert loss == pytest.approx(p * math.log(p / 0.8) + (1 - p) * math.log((1 - p) / 0.2), abs=1e-9)


@pytest.mark.parametrize("beta", [0.1, 2000.0])
def test_value_where_policy_and_reference_agree(beta: float) -> None:
    for scores in (fixture_f(), fixture_f1()[0]):
        assert near(run(DMPO(beta), agreeing(scores)).loss, [1.614463, 1.614463], 1e-6)


def test_flat_at_the_wanted_confidence_and_pulled_back_beyond() -> None:
    best = math.log(0.99 / 0.01) / 0.1
    h = torch.tensor([best, best + 1, best - 1], dtype=torch.float64)
    scores, leaves = from_ratios(chosen=h, rejected=torch.zeros(3, dtype=torch.float64))
    loss = run(DMPO(), scores).loss
    loss.sum().backward()
    at, above, below = leaves["chosen"].grad[:, 0].tolist()
    assert abs(at) < 1e-12 and above > 0 > below
    assert loss[0].item() == pytest.approx(0, abs=1e-12) and (loss[1:] > 0).all()
    assert torch.equal(leaves["rejected"].grad, -leaves["chosen"].grad)


def test_gradient_lowers_the_chosen_error_and_raises_the_rejected() -> None:
    scores, errors = fixture_f1()
    run(DMPO(beta=500.0), scores).loss.sum().backward()
    assert (errors["chosen"].grad > 0).all() and (errors["rejected"].grad < 0).all()


def test_hopeless_pairs_cost_a_constant() -> None:
    h = torch.tensor([1e4, -1e4])
    scores, leaves = from_ratios(chosen=h, rejected=-h)
    loss = run(DMPO(), scores).loss
    loss.sum().backward()
    assert near(loss, [-math.log(0.99), -math.log(0.01)], 1e-5)
    assert near(leaves["chosen"].grad[:, 0], [0.0, 0.0], 1e-7)


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("alpha", 0.0), ("alpha", 0.5)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        DMPO(**{field: value})
