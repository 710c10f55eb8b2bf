"""DPO, its conservative and offset forms, and Diffusion-DPO through the same line."""

import math

import pytest
import torch
from fixtures import LN2, agreeing, fixture_f, fixture_f1, from_ratios, near, run, surrogate, total_gradients

from mmalign.objectives.dpo import DPO


def test_worked_losses() -> None:
    loss = run(DPO(), fixture_f()).loss
    assert near(loss, [0.653947, 0.728760])
    assert loss.mean().item() == pytest.approx(0.691353, abs=2e-6)


def test_worked_losses_of_the_conservative_form() -> None:
    assert near(run(DPO(label_smoothing=0.1), fixture_f()).loss, [0.661947, 0.721760])


def test_worked_losses_with_an_offset() -> None:
    labels = {"margin": torch.tensor([0.2, 0.2], dtype=torch.float64)}
    assert near(run(DPO(margin=1.0), fixture_f(), labels).loss, [0.754946, 0.837232])
    assert near(
        run(DPO(margin=0.5), fixture_f(), {"margin": 2 * labels["margin"]}).loss, [0.754946, 0.837232]
    )


def test_only_an_offset_that_is_used_asks_for_the_label() -> None:
    assert DPO().fields == ()
    assert DPO(margin=0.5).fields == ("margin",)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [(DPO(), [0.048001, 0.051749]), (DPO(label_smoothing=0.1), [0.038001, 0.041749])],
)
def test_worked_gradients(objective: DPO, expected: list[float]) -> None:
    assert total_gradients(objective, "chosen") == pytest.approx([-g for g in expected], abs=2e-6)
    assert total_gradients(objective, "rejected") == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_ln2_where_policy_and_reference_agree(label_smoothing: float) -> None:
    for scores in (fixture_f(), fixture_f1()[0]):
        outcome = run(DPO(beta=2000.0, label_smoothing=label_smoothing), agreeing(scores))
        assert near(outcome.loss, [LN2, LN2], 1e-12)
        assert outcome.metrics["accuracy"].tolist() == [0.0, 0.0]
        assert outcome.metrics["implicit_acc"].tolist() == [0.5, 0.5]


def test_gradient_raises_chosen_and_lowers_rejected() -> None:
    scores, leaves = from_ratios(chosen=torch.zeros(2), rejected=torch.zeros(2))
    run(DPO(), scores).loss.sum().backward()
    assert near(leaves["chosen"].grad[:, 0], [-0.05, -0.05], 1e-7)
    assert near(leaves["rejected"].grad[:, 0], [0.05, 0.05], 1e-7)


def test_small_beta_forgets_the_margin() -> None:
    assert near(run(DPO(beta=1e-12), fixture_f()).loss, [LN2, LN2], 1e-11)


def test_swapping_the_sides_changes_the_loss_by_the_logit() -> None:
    scores = fixture_f()
    swapped = {
        source: {"chosen": roles["rejected"], "rejected": roles["chosen"]} for source, roles in scores.items()
    }
    difference = run(DPO(), swapped).loss - run(DPO(), scores).loss
    assert near(difference, [0.08, -0.07], 1e-12)


def test_conservative_form_is_flat_at_its_optimum() -> None:
    best = math.log(0.9 / 0.1) / 0.1
    scores, leaves = from_ratios(
        chosen=torch.tensor([best, best + 1, best - 1], dtype=torch.float64),
        rejected=torch.zeros(3, dtype=torch.float64),
    )
    run(DPO(label_smoothing=0.1), scores).loss.sum().backward()
    at, above, below = leaves["chosen"].grad[:, 0].tolist()
    assert abs(at) < 1e-12 and above > 0 > below


def test_extreme_margins() -> None:
    h = torch.tensor([1e4, -1e4])
    scores, leaves = from_ratios(chosen=h, rejected=-h)
    loss = run(DPO(), scores).loss
    loss.sum().backward()
    assert near(loss, [0.0, 2000.0], 1e-3)
    assert near(leaves["chosen"].grad[:, 0], [0.0, -0.1], 1e-6)


def test_metrics() -> None:
    metrics = run(DPO(), fixture_f()).metrics
    assert near(metrics["reward/chosen"], [0.05, -0.04])
    assert near(metrics["reward/rejected"], [-0.03, 0.03])
    assert near(metrics["reward/margin"], [0.08, -0.07])
    assert metrics["accuracy"].tolist() == [1.0, 0.0]
    assert metrics["implicit_acc"].tolist() == [1.0, 0.0]
    assert metrics["chosen_falling"].tolist() == [0.0, 1.0]


def test_accuracy_compares_the_sides_also_where_both_fall() -> None:
    scores, _ = from_ratios(chosen=torch.tensor([-1.0, 2.0, 1.0]), rejected=torch.tensor([-2.0, 3.0, 1.0]))
    metrics = run(DPO(), scores).metrics
    assert metrics["accuracy"].tolist() == [1.0, 0.0, 0.0]
    assert metrics["implicit_acc"].tolist() == [1.0, 0.0, 0.5]
    assert metrics["chosen_falling"].tolist() == [1.0, 0.0, 0.0]


def test_worked_losses_on_denoising_errors() -> None:
    outcome = run(DPO(beta=500.0), fixture_f1()[0])
    assert near(outcome.loss, [0.0232455, 1.1368710])
    assert outcome.loss.mean().item() == pytest.approx(0.5800582, abs=2e-6)
    assert outcome.metrics["accuracy"].mean().item() == 0.5
    assert run(DPO(beta=5000.0), fixture_f1()[0]).loss.mean().item() == pytest.approx(3.7502765, abs=2e-6)
    # the published convention without the half has twice this beta
    assert run(DPO(beta=1000.0), fixture_f1()[0]).loss.mean().item() == pytest.approx(0.8509831, abs=2e-6)


def test_worked_losses_on_denoising_errors_with_label_smoothing_and_pair_weights() -> None:
    """Conservative DPO; and VideoDPO's weights, whose mean divides by the number of pairs, a run by their
    sum."""
    smoothed = run(DPO(beta=500.0, label_smoothing=0.1), fixture_f1()[0]).loss
    assert smoothed.mean().item() == pytest.approx(0.7300582, abs=2e-6)
    weighted = torch.tensor([1.0, 1.8]) * run(DPO(beta=500.0), fixture_f1()[0]).loss
    assert weighted.mean().item() == pytest.approx(1.0348066, abs=2e-6)


@pytest.mark.parametrize("beta", [500.0, 2000.0, 5000.0])
def test_the_same_line_is_diffusion_dpo_at_its_published_beta(beta: float) -> None:
    """-log sigmoid(-beta / 2 * ((e_w - e_l) - (r_w - r_l))) on errors, arXiv 2311.12908."""
    generator = torch.Generator().manual_seed(0)
    e_w, e_l, r_w, r_l = (
        0.1 + 0.002 * torch.randn(32, generator=generator, dtype=torch.float64) for _ in range(4)
    )
    published = [
        math.log1p(math.exp(-abs(z))) + max(-z, 0.0)
        for z in (-beta / 2 * ((e_w - e_l) - (r_w - r_l))).tolist()
    ]
    scores = {
        "policy": {"chosen": surrogate(e_w), "rejected": surrogate(e_l)},
        "reference": {"chosen": surrogate(r_w), "rejected": surrogate(r_l)},
    }
    assert near(run(DPO(beta=beta), scores).loss, published, 1e-9)


def test_gradients_on_denoising_errors() -> None:
    scores, errors = fixture_f1()
    run(DPO(beta=500.0), scores).loss.sum().backward()
    weight = [250 / (1 + math.exp(z)) for z in (3.75, -0.75)]  # kappa * sigmoid(-z)
    assert near(errors["chosen"].grad, weight, 1e-9)
    assert near(errors["rejected"].grad, [-w for w in weight], 1e-9)


def test_float32_and_bfloat16_agree_with_float64() -> None:
    exact = run(DPO(), fixture_f()).loss
    assert near(run(DPO(), fixture_f(dtype=torch.float32)).loss, exact.tolist(), 1e-6)
    assert near(run(DPO(), fixture_f(dtype=torch.bfloat16)).loss, exact.tolist(), 0.01)


@pytest.mark.parametrize(
    ("field", "value"),
    [("beta", 0.0), ("beta", -1.0), ("label_smoothing", 0.5), ("label_smoothing", -0.1), ("margin", -1.0)],
)
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        DPO(**{field: value})
