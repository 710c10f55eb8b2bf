"""DPO, its conservative and offset forms, and Diffusion-DPO through the same line."""

import math

import pytest
import torch
from fixtures import LN2, agreeing, fixture_f, fixture_f1, from_ratios, near, run, surrogate, total_gradients

from mmalign.objectives.dpo import DPO
from mmalign.types import LogProbs


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


def test_worked_loss_of_flow_dpo() -> None:
    """beta 500 (1 - t)^2 at t = 0.25 and 0.75, arXiv 2501.13918; and a constant beta of 100."""
    scores, errors = fixture_f1(signal=torch.tensor([0.75, 0.25], dtype=torch.float64))
    scheduled = DPO(beta=500.0, beta_schedule="one_minus_t_sq")
    outcome = run(scheduled, scores)
    assert outcome.loss.mean().item() == pytest.approx(0.4156802, abs=2e-6)
    assert near(outcome.metrics["reward/margin"], [3.75 * 0.5625, -0.75 * 0.0625], 1e-9)
    outcome.loss.sum().backward()
    assert (errors["chosen"].grad > 0).all() and (errors["rejected"].grad < 0).all()
    assert run(DPO(beta=100.0), scores).loss.mean().item() == pytest.approx(0.5789140, abs=2e-6)


def test_the_schedule_weighs_every_draw_by_itself() -> None:
    """Two draws of one pair, with margins 0.02 and -0.01 and squared signals 1 and 0.25."""
    e_w, e_l = torch.tensor([[0.10, 0.30]]).double(), torch.tensor([[0.14, 0.28]]).double()
    signal = torch.tensor([[1.0, 0.5]])
    scores = {
        "policy": {"chosen": surrogate(e_w, signal=signal), "rejected": surrogate(e_l, signal=signal)},
        "reference": {role: surrogate(torch.full((1, 2), 0.2).double()) for role in ("chosen", "rejected")},
    }
    margin = run(DPO(1.0, beta_schedule="one_minus_t_sq"), scores).metrics["reward/margin"]
    assert near(margin, [(0.02 - 0.25 * 0.01) / 2], 1e-9)


def test_the_schedule_is_a_constant_beta_on_the_error_of_the_implied_noise() -> None:
    """Of a flow x_t = (1 - t) x_0 + t eps the noise implied by a velocity v is x_t + (1 - t) v."""
    generator = torch.Generator().manual_seed(3)
    x0, eps, predicted = (torch.randn(4, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)[:, None]
    velocity_error = (predicted - (eps - x0)).square().mean(-1)
    noise_error = ((1 - t) * x0 + t * eps + (1 - t) * predicted - eps).square().mean(-1)
    assert near(noise_error / velocity_error, ((1 - t) ** 2)[:, 0].tolist(), 1e-12)

    def scores(error: torch.Tensor) -> dict[str, dict[str, LogProbs]]:
        policy = {"chosen": surrogate(error, signal=1 - t), "rejected": surrogate(0 * error, signal=1 - t)}
        return {"policy": policy, "reference": {role: surrogate(0 * error) for role in policy}}

    scheduled = run(DPO(5.0, beta_schedule="one_minus_t_sq"), scores(velocity_error)).loss
    assert near(scheduled, run(DPO(5.0), scores(noise_error)).loss.tolist(), 1e-12)


def test_a_schedule_over_noise_needs_a_model_with_noise() -> None:
    assert DPO().needs == {"ratio"}
    assert DPO(beta_schedule="one_minus_t_sq").needs == {"ratio", "error"}
    with pytest.raises(ValueError, match="^beta_schedule one_minus_t_sq: these scores"):
        run(DPO(beta_schedule="one_minus_t_sq"), fixture_f())


def test_worked_beta_that_follows_the_margins() -> None:
    """-2 logit(0.2) over the mean |D| of F1, 0.009; D is minus twice the margin."""
    outcome = run(DPO(beta=5000.0, target_gradient=0.2), fixture_f1()[0])
    assert near(outcome.metrics["beta"], [308.07, 308.07], 5e-3)
    plain = run(DPO(beta=outcome.metrics["beta"][0].item()), fixture_f1()[0])
    assert near(outcome.loss, plain.loss.tolist(), 1e-12)
    assert near(outcome.metrics["reward/margin"], plain.metrics["reward/margin"].tolist(), 1e-12)


def test_a_typical_pair_keeps_the_wanted_share_of_its_gradient() -> None:
    scores, leaves = from_ratios(chosen=torch.full((4,), 0.03).double(), rejected=torch.zeros(4).double())
    outcome = run(DPO(beta=1e6, target_gradient=0.3), scores)
    outcome.loss.sum().backward()
    assert near(leaves["chosen"].grad[:, 0] / outcome.metrics["beta"], [-0.3] * 4, 1e-12)


def test_the_margins_are_followed_slowly_and_over_all_processes() -> None:
    objective = DPO(beta=1e6, target_gradient=0.2)
    assert objective.batch_coupled and not DPO().batch_coupled and not DPO().initial_state()

    def elsewhere(values: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
        return torch.cat([values, 3 * values]).mean()  # a second process with margins three times as large

    def step(margin: float, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        scores, _ = from_ratios(chosen=torch.tensor([margin, -margin]), rejected=torch.zeros(2))
        return objective(scores, {}, state, elsewhere).state

    none = step(0.0, objective.initial_state())
    first = step(0.5, none)  # the first mean that is not 0 is taken as it is
    second = step(1.0, first)
    means = [float(state["mean_margin"]) for state in (none, first, second)]
    assert means == pytest.approx([0.0, 1.0, 0.99 * 1.0 + 0.01 * 2.0])


def test_beta_is_the_largest_value_while_policy_and_reference_agree() -> None:
    outcome = run(DPO(beta=2000.0, target_gradient=0.2), agreeing(fixture_f1()[0]))
    assert near(outcome.loss, [LN2, LN2], 1e-12)
    assert outcome.metrics["beta"].tolist() == [2000.0, 2000.0]


def test_float32_and_bfloat16_agree_with_float64() -> None:
    exact = run(DPO(), fixture_f()).loss
    assert near(run(DPO(), fixture_f(dtype=torch.float32)).loss, exact.tolist(), 1e-6)
    assert near(run(DPO(), fixture_f(dtype=torch.bfloat16)).loss, exact.tolist(), 0.01)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beta", 0.0),
        ("beta", -1.0),
        ("label_smoothing", 0.5),
        ("label_smoothing", -0.1),
        ("margin", -1.0),
        ("target_gradient", 0.0),
        ("target_gradient", 0.5),
    ],
)
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        DPO(**{field: value})
