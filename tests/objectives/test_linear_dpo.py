"""Linear-DPO: worked weights and losses on denoising errors, and a weight that carries no gradient."""

import pytest
import torch
from fixtures import agreeing, fixture_f, fixture_f1, near, run, surrogate

from mmalign.objectives.linear_dpo import LinearDPO


@pytest.mark.parametrize(
    ("objective", "weights", "mean"),
    [(LinearDPO(100.0, 0.001), [0.2, 0.56], 0.0064), (LinearDPO(500.0, 0.0), [0.0, 0.8], 0.012)],
)
def test_worked_losses(objective: LinearDPO, weights: list[float], mean: float) -> None:
    scores, errors = fixture_f1()
    outcome = run(objective, scores)
    assert near(outcome.metrics["pair_pull"], weights, 1e-9)
    assert outcome.loss.mean().item() == pytest.approx(mean, abs=1e-9)
    outcome.loss.sum().backward()
    assert near(errors["chosen"].grad, weights, 1e-9)
    assert near(errors["rejected"].grad, [-w for w in weights], 1e-9)


def test_half_the_difference_where_policy_and_reference_agree() -> None:
    loss = run(LinearDPO(), agreeing(fixture_f1()[0])).loss
    assert near(loss, [0.5 * (0.100 - 0.120), 0.5 * (0.200 - 0.170)], 1e-12)


def test_the_weight_ends_at_eta_on_both_sides() -> None:
    far = torch.tensor([0.0, 1.0], dtype=torch.float64)
    scores = {
        "policy": {"chosen": surrogate(far), "rejected": surrogate(far.flip(0))},
        "reference": {role: surrogate(torch.full((2,), 0.5).double()) for role in ("chosen", "rejected")},
    }
    assert near(run(LinearDPO(), scores).metrics["pair_pull"], [0.001, 0.999], 1e-12)
    assert near(run(LinearDPO(eta=0.0), scores).metrics["pair_pull"], [0.0, 1.0], 1e-12)


def test_raw_errors_are_used_whatever_the_timestep_weight() -> None:
    scores, _ = fixture_f1()
    weight = torch.tensor([0.25, 3.0], dtype=torch.float64)
    weighted = {
        source: {role: surrogate(side.error[:, 0], weight) for role, side in roles.items()}  # type: ignore[index]
        for source, roles in scores.items()
    }
    assert torch.equal(run(LinearDPO(), weighted).loss, run(LinearDPO(), scores).loss)


def test_metrics_are_those_of_dpo() -> None:
    metrics = run(LinearDPO(beta=500.0), fixture_f1()[0]).metrics
    assert near(metrics["reward/margin"], [3.75, -0.75], 1e-9)
    assert metrics["accuracy"].tolist() == [1.0, 0.0]
    assert metrics["chosen_falling"].tolist() == [0.0, 1.0]


def test_exact_scores_have_no_error() -> None:
    with pytest.raises(ValueError, match="prediction error"):
        run(LinearDPO(), fixture_f())


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("eta", -0.1), ("eta", 0.5)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        LinearDPO(**{field: value})
