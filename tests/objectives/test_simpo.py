"""SimPO: worked values, the target margin, length, and where it cannot run."""

import pytest
import torch
from fixtures import exact, fixture_f, fixture_f1, near, run, tokens, total_gradients

from mmalign.adapters.diffusion import Diffusion
from mmalign.adapters.text import Text
from mmalign.objectives.simpo import SimPO


def test_worked_losses() -> None:
    assert near(run(SimPO(), fixture_f()).loss, [0.913015, 1.896043])


def test_worked_gradients() -> None:
    assert total_gradients(SimPO(), "chosen") == pytest.approx([-0.299344, -0.566559], abs=2e-6)
    assert total_gradients(SimPO(), "rejected") == pytest.approx([0.598688, 0.566559], abs=2e-6)


def test_no_reference_is_scored() -> None:
    assert set(SimPO().roles) == {"policy"}
    run(SimPO(), {"policy": fixture_f()["policy"]})


def test_value_at_equal_likelihood_per_token() -> None:
    """Lengths differ, means agree: only the target margin is left."""
    scores = {"policy": {"chosen": tokens([[-0.5, -0.7]]), "rejected": tokens([[-0.6, -0.6, -0.6]])}}
    assert near(run(SimPO(), scores).loss, [1.313262])
    assert near(run(SimPO(gamma=0.0), scores).loss, [0.693147])


def test_gamma_is_not_divided_by_beta() -> None:
    """A margin of the rewards that equals gamma leaves ln 2, whatever beta is."""
    for beta in (1.0, 2.0, 10.0):
        scores = {"policy": {"chosen": tokens([[-0.5]]), "rejected": tokens([[-0.5 - 1.5 / beta]])}}
        assert near(run(SimPO(beta, gamma=1.5), scores).loss, [0.693147])


def test_metrics() -> None:
    metrics = run(SimPO(), fixture_f()).metrics
    assert near(metrics["reward/chosen"], [-1.5, -2.0])
    assert near(metrics["reward/rejected"], [-2.1, -1.266667])
    assert metrics["accuracy"].tolist() == [1.0, 0.0]
    assert metrics["target_reached"].tolist() == [0.0, 0.0]
    assert run(SimPO(gamma=0.5), fixture_f()).metrics["target_reached"].tolist() == [1.0, 0.0]


def test_extreme_margins() -> None:
    values = torch.tensor([[-1.0], [-1e4]], requires_grad=True)
    scores = {"policy": {"chosen": exact(values), "rejected": exact(-1e4 - 1 - values.detach())}}
    loss = run(SimPO(), scores).loss
    loss.sum().backward()
    assert near(loss, [0.0, 2 * 9999 + 1.0], 1e-2)
    assert near(values.grad[:, 0], [0.0, -2.0], 1e-6)


def test_surrogates_are_not_offered_what_it_needs() -> None:
    """The line runs there, but what it compares is how easily two pictures are denoised: a run is refused."""
    loss = run(SimPO(beta=2 * 250.0, gamma=0.5), fixture_f1()[0]).loss
    assert loss.mean().item() == pytest.approx(4.0056916, abs=2e-6)
    assert SimPO().needs <= Text.offers
    assert SimPO().needs - Diffusion.offers == {"absolute"}


def test_float32_and_bfloat16_agree_with_float64() -> None:
    assert near(run(SimPO(), fixture_f(dtype=torch.float32)).loss, [0.913015, 1.896043])
    assert near(run(SimPO(), fixture_f(dtype=torch.bfloat16)).loss, [0.913015, 1.896043], 0.02)


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("gamma", -0.5)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        SimPO(**{field: value})
