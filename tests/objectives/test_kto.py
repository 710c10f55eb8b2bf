"""KTO: worked values, its detached baseline, and Diffusion-KTO at half its beta."""

import math

import pytest
import torch
from fixtures import agreeing, exact, from_ratios, near, run, surrogate
from torch import Tensor

from mmalign.objectives.kto import KTO
from mmalign.types import LogProbs

GOOD_GOOD_BAD_BAD = {"binary": torch.tensor([1.0, 1.0, 0.0, 0.0])}
RATIOS = torch.tensor([0.5, -0.4, -0.3, 0.3], dtype=torch.float64)  # of fixture F: both chosen, both rejected
MISMATCHED = torch.tensor([0.3, 0.1, 0.3, 0.1], dtype=torch.float64)


def errors(shift: float = 0.0) -> dict[str, dict[str, LogProbs]]:
    """Four single pictures; every reference error is `shift` larger."""
    e = torch.tensor([0.1, 0.2, 0.12, 0.17], dtype=torch.float64)
    r = torch.tensor([0.11, 0.195, 0.115, 0.168], dtype=torch.float64) + shift
    return {"policy": {"completion": surrogate(e)}, "reference": {"completion": surrogate(r)}}


def test_worked_losses() -> None:
    scores, _ = from_ratios(completion=RATIOS, mismatched=MISMATCHED)
    outcome = run(KTO(), scores, GOOD_GOOD_BAD_BAD)
    assert near(outcome.loss, [0.492501, 0.514996, 0.487503, 0.502500])
    assert outcome.loss.mean().item() == pytest.approx(0.499375, abs=2e-6)
    assert near(outcome.metrics["baseline"], [0.02] * 4)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 0.3633497), (0.01, 0.3687200)])
def test_worked_losses_on_denoising_errors(shift: float, expected: float) -> None:
    outcome = run(KTO(beta=500.0, baseline="batch"), errors(shift), GOOD_GOOD_BAD_BAD)
    assert outcome.loss.mean().item() == pytest.approx(expected, abs=2e-6)


def test_the_same_line_is_diffusion_kto_at_twice_its_beta() -> None:
    """mean of 1 - sigmoid(beta * y * (g - q)), g = r - e, q = max(0, mean g); arXiv 2404.04465."""
    generator = torch.Generator().manual_seed(1)
    e, r = (0.1 + 0.002 * torch.randn(16, generator=generator, dtype=torch.float64) for _ in range(2))
    good = torch.arange(16) % 3 == 0
    scores = {"policy": {"completion": surrogate(e)}, "reference": {"completion": surrogate(r)}}
    for shift in (0.0, 0.003):
        scores["reference"]["completion"] = surrogate(r + shift)
        g = (r + shift - e).tolist()
        q = max(0.0, sum(g) / len(g))
        published = [
            1 - 1 / (1 + math.exp(-1000 * (1 if y else -1) * (gi - q)))
            for gi, y in zip(g, good.tolist(), strict=True)
        ]
        loss = run(KTO(beta=2000.0, baseline="batch"), scores, {"binary": good.double()}).loss
        assert near(loss, published, 1e-9)


def test_half_the_weight_where_policy_and_reference_agree() -> None:
    scores = agreeing(errors())
    objective = KTO(baseline="batch", desirable_weight=1.3, undesirable_weight=0.7)
    assert near(run(objective, scores, GOOD_GOOD_BAD_BAD).loss, [0.65, 0.65, 0.35, 0.35], 1e-12)


def test_good_responses_rise_and_bad_ones_fall() -> None:
    zeros = torch.zeros(4, dtype=torch.float64)
    scores, leaves = from_ratios(completion=zeros, mismatched=zeros)
    run(KTO(), scores, GOOD_GOOD_BAD_BAD).loss.sum().backward()
    assert near(leaves["completion"].grad[:, 0], [-0.025, -0.025, 0.025, 0.025], 1e-12)


def test_the_baseline_carries_no_gradient() -> None:
    scores, leaves = from_ratios(completion=RATIOS, mismatched=MISMATCHED)
    run(KTO(), scores, GOOD_GOOD_BAD_BAD).loss.sum().backward()
    assert leaves["mismatched"].grad is None
    scores, leaves = from_ratios(completion=RATIOS + 1)
    run(KTO(baseline="batch"), scores, GOOD_GOOD_BAD_BAD).loss.sum().backward()
    z0 = (RATIOS + 1).mean()
    s = torch.sigmoid(0.1 * torch.tensor([1.0, 1.0, -1.0, -1.0]) * (RATIOS + 1 - z0))
    constant = 0.1 * s * (1 - s) * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    assert near(leaves["completion"].grad[:, 0], constant.tolist(), 1e-9)


def test_a_negative_baseline_is_cut_at_zero() -> None:
    scores, _ = from_ratios(completion=RATIOS, mismatched=-MISMATCHED)
    unshifted, _ = from_ratios(completion=RATIOS, mismatched=torch.zeros(4, dtype=torch.float64))
    loss = run(KTO(), scores, GOOD_GOOD_BAD_BAD).loss
    assert torch.equal(loss, run(KTO(), unshifted, GOOD_GOOD_BAD_BAD).loss)


def test_the_baseline_is_the_mean_over_all_processes() -> None:
    scores, _ = from_ratios(completion=RATIOS, mismatched=MISMATCHED)

    def elsewhere(values: Tensor, where: Tensor | None = None) -> Tensor:
        return torch.cat([values, values + 0.2]).mean()  # a second process whose ratios are 0.2 higher

    outcome = KTO()(scores, GOOD_GOOD_BAD_BAD, {}, elsewhere)
    assert near(outcome.metrics["baseline"], [0.03] * 4)


def test_extreme_ratios_stay_finite() -> None:
    h = torch.tensor([1e4, -1e4, 1e4, -1e4])
    scores, leaves = from_ratios(completion=h, mismatched=torch.zeros(4))
    loss = run(KTO(), scores, GOOD_GOOD_BAD_BAD).loss
    loss.sum().backward()
    assert near(loss, [0.0, 1.0, 1.0, 0.0])
    assert torch.isfinite(leaves["completion"].grad).all()


def test_metrics_leave_out_the_other_label() -> None:
    scores, _ = from_ratios(completion=RATIOS, mismatched=MISMATCHED)
    metrics = run(KTO(), scores, GOOD_GOOD_BAD_BAD).metrics
    assert metrics["reward/good"][2:].isnan().all() and near(metrics["reward/good"][:2], [0.05, -0.04])
    assert metrics["reward/bad"][:2].isnan().all() and near(metrics["reward/bad"][2:], [-0.03, 0.03])
    assert metrics["good_falling"][:2].tolist() == [0.0, 1.0] and metrics["good_falling"][2:].isnan().all()


@pytest.mark.parametrize(
    ("utility", "expected"),
    [
        # x = y * 250 * g of the worked example: 2.5, -1.25, 1.25, 0.5
        ("loss_averse", [1.0788894, 2.5019331, 1.2519290, 1.4740770]),
        ("risk_seeking", [1 - 2.5788894, 1 - 0.2519331, 1 - 1.5019290, 1 - 0.9740770]),
        ("risk_seeking_signed", [1 - 2.5788894, 1 - 0.2519331, 1 + 0.2519290, 1 + 0.4740770]),
        ("risk_seeking_exp", [2 - math.exp(0.025), 2 - math.exp(-0.0125)]),
    ],
)
def test_utilities_of_diffusion_kto(utility: str, expected: list[float]) -> None:
    """On the worked example with z0 = 0: log(1 + e^-x) of 2.5, -1.25, 1.25, 0.5 is 0.0788894, 1.5019331,
    0.2519331, 0.4740770, and log(1 + e^x) is x more."""
    objective = KTO(beta=500.0, baseline="batch", utility=utility)  # type: ignore[arg-type]
    loss = run(objective, errors(), GOOD_GOOD_BAD_BAD).loss
    assert near(loss[: len(expected)], expected, 2e-5)


def test_exponential_utility_of_bad_responses() -> None:
    loss = run(KTO(500.0, baseline="batch", utility="risk_seeking_exp"), errors(), GOOD_GOOD_BAD_BAD).loss
    assert near(loss[2:], [2 + math.exp(-0.0125), 2 + math.exp(-0.005)], 1e-9)


@pytest.mark.parametrize(
    ("utility", "value", "slope"),
    [
        ("kto", 0.5, 0.25),
        ("loss_averse", 1 + math.log(2), 0.5),
        ("risk_seeking", 1 - math.log(2), 0.5),
        ("risk_seeking_signed", None, 0.5),
        ("risk_seeking_exp", None, 0.01),
    ],
)
def test_every_utility_raises_the_good_and_lowers_the_bad(
    utility: str, value: float | None, slope: float
) -> None:
    scores, leaves = from_ratios(completion=torch.zeros(4, dtype=torch.float64))
    outcome = run(KTO(baseline="batch", utility=utility), scores, GOOD_GOOD_BAD_BAD)  # type: ignore[arg-type]
    outcome.loss.sum().backward()
    assert value is None or near(outcome.loss, [value] * 4, 1e-12)
    step = 0.1 * slope
    assert near(leaves["completion"].grad[:, 0], [-step, -step, step, step], 1e-12)


def test_loss_averse_is_cross_entropy_and_keeps_pulling_where_kto_lets_go() -> None:
    scores, leaves = from_ratios(completion=torch.tensor([-300.0, 300.0], dtype=torch.float64))
    labels = {"binary": torch.tensor([1.0, 0.0])}
    run(KTO(baseline="batch", utility="loss_averse"), scores, labels).loss.sum().backward()
    assert near(leaves["completion"].grad[:, 0], [-0.1, 0.1], 1e-9)
    scores, leaves = from_ratios(completion=torch.tensor([-300.0, 300.0], dtype=torch.float64))
    run(KTO(baseline="batch"), scores, labels).loss.sum().backward()
    assert leaves["completion"].grad.abs().max() < 1e-9


def test_midpoint_baseline() -> None:
    """Half of 0.05, the mean of the good ones, plus half of -0.3, the only bad one."""
    labels = {"binary": torch.tensor([1.0, 1.0, 0.0, 1.0])}
    ratios = torch.tensor([0.5, -0.4, -0.3, 0.05], dtype=torch.float64)
    scores, _ = from_ratios(completion=ratios)
    objective = KTO(baseline="midpoint")
    assert near(run(objective, scores, labels).metrics["baseline"], [0.1 * (0.05 - 0.3) / 2] * 4, 1e-12)
    assert objective.roles["policy"] == ("completion",) and not objective.views


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_midpoint_of_one_class_is_its_mean(label: float) -> None:
    scores, _ = from_ratios(completion=RATIOS)
    outcome = run(KTO(baseline="midpoint"), scores, {"binary": torch.full((4,), label)})
    assert near(outcome.metrics["baseline"], [0.1 * 0.025] * 4, 1e-12)


def test_midpoint_counts_every_process() -> None:
    """The bad responses are all on the other process, with ratios of -1."""
    scores, _ = from_ratios(completion=RATIOS)

    def both(values: Tensor, where: Tensor | None = None) -> Tensor:
        here = torch.ones(4, dtype=torch.bool)
        if where is None:  # the share of good responses
            return torch.cat([values, 0 * values]).mean()
        return values.mean() if torch.equal(where, here) else values.new_tensor(-1.0)

    outcome = KTO(baseline="midpoint")(scores, {"binary": torch.ones(4)}, {}, both)
    assert near(outcome.metrics["baseline"], [0.1 * (0.025 - 1.0) / 2] * 4, 1e-12)


def test_roles_follow_the_baseline() -> None:
    assert KTO().roles["policy"] == ("completion", "mismatched")
    assert KTO().detached == ("mismatched",) and set(KTO().views) == {"mismatched"}
    batch = KTO(baseline="batch")
    assert batch.roles["reference"] == ("completion",)
    assert batch.detached == () and not batch.views


def test_float32_and_bfloat16_agree_with_float64() -> None:
    losses = []
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        policy = {
            "completion": exact(RATIOS.to(dtype)[:, None]),
            "mismatched": exact(MISMATCHED.to(dtype)[:, None]),
        }
        reference = {role: exact(torch.zeros_like(side.values)) for role, side in policy.items()}
        losses.append(run(KTO(), {"policy": policy, "reference": reference}, GOOD_GOOD_BAD_BAD).loss)
    assert near(losses[1], losses[0].tolist(), 1e-6)
    assert near(losses[2], losses[0].tolist(), 0.01)


@pytest.mark.parametrize(
    ("field", "value"), [("beta", 0.0), ("desirable_weight", -1.0), ("undesirable_weight", -0.5)]
)
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        KTO(**{field: value})  # type: ignore[arg-type]
