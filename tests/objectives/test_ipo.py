"""IPO: both reductions, both scales, and the published forms on denoising errors."""

import pytest
import torch
from fixtures import agreeing, fixture_f, fixture_f1, from_ratios, near, run, total_gradients

from mmalign.objectives.ipo import IPO


def test_worked_losses() -> None:
    assert near(run(IPO(reduction="sum"), fixture_f()).loss, [17.640000, 32.490000])
    assert near(run(IPO(reduction="mean"), fixture_f()).loss, [22.325625, 27.387778])


@pytest.mark.parametrize(
    ("objective", "chosen", "rejected"),
    [
        (IPO(reduction="sum"), [-8.400000, -11.400000], [8.400000, 11.400000]),
        (IPO(reduction="mean"), [-2.362500, -3.488889], [4.725000, 3.488889]),
    ],
)
def test_worked_gradients(objective: IPO, chosen: list[float], rejected: list[float]) -> None:
    assert total_gradients(objective, "chosen") == pytest.approx(chosen, abs=2e-6)
    assert total_gradients(objective, "rejected") == pytest.approx(rejected, abs=2e-6)


@pytest.mark.parametrize("tau", [0.1, 0.5, 2000.0])
def test_values_where_policy_and_reference_agree(tau: float) -> None:
    for scores in (fixture_f(), fixture_f1()[0]):
        assert near(run(IPO(tau=tau), agreeing(scores)).loss, [1 / (4 * tau**2)] * 2, 1e-12)
        assert near(run(IPO(tau=tau, scale="unit"), agreeing(scores)).loss, [0.25, 0.25], 1e-12)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("tau", [0.1, 3.0])
def test_unit_scale_is_tau_squared_times_the_printed_form(reduction: str, tau: float) -> None:
    printed = run(IPO(tau, reduction, "paper"), fixture_f()).loss  # type: ignore[arg-type]
    unit = run(IPO(tau, reduction, "unit"), fixture_f()).loss  # type: ignore[arg-type]
    assert near(unit, (tau**2 * printed).tolist(), 1e-9)


def test_scaled_form_on_denoising_errors() -> None:
    """(z - 1/2)^2 with z = -beta / 2 * D, and the value worked for F1 at beta 500."""
    loss = run(IPO(tau=500.0, scale="unit"), fixture_f1()[0]).loss
    assert near(loss, [(3.75 - 0.5) ** 2, (-0.75 - 0.5) ** 2], 1e-9)
    assert loss.mean().item() == pytest.approx(6.0625, abs=2e-6)


def test_form_in_raw_error_units() -> None:
    """(-D - 1 / (2 b))^2 at b = 250 is four times the printed form at tau = 2 b."""
    raw = [(0.015 - 1 / 500) ** 2, (-0.003 - 1 / 500) ** 2]
    loss = 4 * run(IPO(tau=500.0), fixture_f1()[0]).loss
    assert near(loss, raw, 1e-9)
    assert loss.mean().item() == pytest.approx(9.7e-5, abs=1e-9)


def test_a_surrogate_has_length_one() -> None:
    scores = fixture_f1()[0]
    assert torch.equal(run(IPO(reduction="mean"), scores).loss, run(IPO(reduction="sum"), scores).loss)


def test_the_margin_is_pulled_to_a_constant_from_both_sides() -> None:
    target = 1 / (2 * 0.1)
    scores, leaves = from_ratios(chosen=torch.tensor([target, 0.0, 2 * target]), rejected=torch.zeros(3))
    loss = run(IPO(), scores).loss
    loss.sum().backward()
    assert loss[0] == 0
    at, below, above = leaves["chosen"].grad[:, 0].tolist()
    assert at == 0 and below < 0 < above
    assert torch.equal(leaves["rejected"].grad, -leaves["chosen"].grad)


def test_metrics_use_the_margin_that_is_regressed() -> None:
    assert near(run(IPO(reduction="mean"), fixture_f()).metrics["reward/margin"], [0.0275, -0.0233333])
    assert near(run(IPO(reduction="sum"), fixture_f()).metrics["reward/margin"], [0.08, -0.07])


def test_float32_and_bfloat16_agree_with_float64() -> None:
    exact = run(IPO(), fixture_f()).loss
    assert near(run(IPO(), fixture_f(dtype=torch.float32)).loss, exact.tolist(), 1e-4)
    assert near(run(IPO(), fixture_f(dtype=torch.bfloat16)).loss, exact.tolist(), 0.3)


def test_ranges() -> None:
    with pytest.raises(ValueError, match=r"^tau: .*got 0"):
        IPO(tau=0.0)
