"""Robust DPO: worked values, and that flipping labels at the stated rate leaves the DPO loss on average."""

import pytest
import torch
from fixtures import LN2, agreeing, fixture_f, fixture_f1, from_ratios, near, run, total_gradients

from mmalign.objectives.dpo import DPO
from mmalign.objectives.rdpo import RobustDPO


def test_worked_losses() -> None:
    assert near(run(RobustDPO(), fixture_f()).loss, [0.643947, 0.737510])


def test_worked_gradients() -> None:
    assert total_gradients(RobustDPO(), "chosen") == pytest.approx([-0.060501, -0.064249], abs=2e-6)
    assert total_gradients(RobustDPO(), "rejected") == pytest.approx([0.060501, 0.064249], abs=2e-6)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
def test_ln2_where_policy_and_reference_agree(rate: float) -> None:
    for scores in (fixture_f(), fixture_f1()[0]):
        assert near(run(RobustDPO(2000.0, rate), agreeing(scores)).loss, [LN2, LN2], 1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.49])
def test_the_mean_over_flipped_labels_is_the_dpo_loss(rate: float) -> None:
    scores = fixture_f()
    swapped = {s: {"chosen": r["rejected"], "rejected": r["chosen"]} for s, r in scores.items()}
    objective = RobustDPO(flip_rate=rate)
    mean = (1 - rate) * run(objective, scores).loss + rate * run(objective, swapped).loss
    assert near(mean, run(DPO(), scores).loss.tolist(), 1e-12)


def test_without_flips_it_is_dpo() -> None:
    for objective, plain, scores in (
        (RobustDPO(flip_rate=0.0), DPO(), fixture_f()),
        (RobustDPO(500.0, 0.0), DPO(500.0), fixture_f1()[0]),
    ):
        assert near(run(objective, scores).loss, run(plain, scores).loss.tolist(), 1e-12)


def test_worked_loss_on_denoising_errors() -> None:
    loss = run(RobustDPO(500.0, 0.1), fixture_f1()[0]).loss
    assert loss.mean().item() == pytest.approx(0.3925582, abs=2e-6)


def test_extreme_margins_are_finite_and_the_loss_has_no_floor() -> None:
    h = torch.tensor([1e4, -1e4])
    scores, leaves = from_ratios(chosen=h, rejected=-h)
    loss = run(RobustDPO(), scores).loss
    loss.sum().backward()
    assert near(loss, [-0.1 * 2000 / 0.8, 0.9 * 2000 / 0.8], 1e-2)
    assert near(leaves["chosen"].grad[:, 0], [-0.1 * 0.1 / 0.8, -0.9 * 0.1 / 0.8], 1e-6)


def test_float32_and_bfloat16_agree_with_float64() -> None:
    assert near(run(RobustDPO(), fixture_f(dtype=torch.float32)).loss, [0.643947, 0.737510])
    assert near(run(RobustDPO(), fixture_f(dtype=torch.bfloat16)).loss, [0.643947, 0.737510], 0.02)


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("flip_rate", 0.5), ("flip_rate", -0.1)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        RobustDPO(**{field: value})
