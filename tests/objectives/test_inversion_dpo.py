"""Inversion-DPO: worked numbers with both signs, the flat start, and its number summed share by share."""

import math
from typing import Any

import pytest
import torch
from fixtures import ALL_MEAN, LN2

from mmalign.likelihoods import LogProbs
from mmalign.objectives.inpo import InPO
from mmalign.objectives.inversion_dpo import InversionDPO

ABAR = torch.tensor([[0.9, 0.2]], dtype=torch.float64)


def along(gaps: torch.Tensor, abar: torch.Tensor = ABAR, prediction: Any = None) -> LogProbs:
    rows = torch.arange(len(gaps))
    mask = torch.ones_like(gaps, dtype=torch.bool)
    signal = abar.sqrt().expand_as(gaps)
    return LogProbs(
        -gaps / 2,
        mask,
        "trajectory",
        "step",
        rows,
        rows * 0,
        error=gaps,
        signal=signal,
        prediction=prediction,
    )


def loss(objective: InversionDPO, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    scores = {"policy": {"chosen": along(chosen), "rejected": along(rejected)}}
    return objective(scores, {}, {}, ALL_MEAN).loss


def gaps(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("sign", "wanted"), [(1, 0.0305757), (-1, 3.5027979)])
def test_worked_numbers(sign: Any, wanted: float) -> None:
    objective = InversionDPO(sign=sign, steps=2)
    found = loss(objective, gaps(0.002, 0.004), gaps(0.003, 0.001))
    assert float(found) == pytest.approx(wanted, abs=1e-7)
    assert math.isclose(
        -math.log(1 / (1 + math.exp(-sign * 0.5 * 2000 * 0.003472222222))), wanted, abs_tol=1e-6
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_signs_of_the_gradient(sign: Any) -> None:
    chosen, rejected = gaps(0.002, 0.004), gaps(0.003, 0.001)
    loss(InversionDPO(sign=sign, steps=2), chosen, rejected).sum().backward()
    assert chosen.grad is not None and rejected.grad is not None
    assert bool((sign * chosen.grad < 0).all()) and bool((sign * rejected.grad > 0).all())
    assert torch.allclose(chosen.grad, -rejected.grad)
    assert float(chosen.grad[0, 1] / chosen.grad[0, 0]) == pytest.approx(0.9 / 0.2)  # weights 1 / (2 abar)


def test_the_gradient_at_the_start_is_exactly_zero() -> None:
    torch.manual_seed(0)
    led = torch.randn(1, 2, 4, 3, 3, dtype=torch.float64)
    policy = [led.clone().requires_grad_() for _ in range(2)]
    measured = [(p - led).pow(2).flatten(2).mean(-1) for p in policy]
    found = loss(InversionDPO(steps=2), *measured)
    assert float(found.detach()) == pytest.approx(LN2)
    found.sum().backward()
    for p in policy:
        assert p.grad is not None and not p.grad.any()


def test_along_the_policys_path_the_gap_is_between_the_two_predictions() -> None:
    torch.manual_seed(0)
    objective = InversionDPO(trajectory="policy", steps=2)
    assert set(objective.roles) == {"policy", "reference"} and "prediction" in objective.needs
    ours, theirs = torch.randn(2, 1, 2, 4, 3, 3, dtype=torch.float64)
    nothing = torch.zeros(1, 2, dtype=torch.float64)
    scores = {
        "policy": {
            "chosen": along(nothing, prediction=0.1 * ours),
            "rejected": along(nothing, prediction=theirs),
        },
        "reference": {role: along(nothing, prediction=theirs) for role in ("chosen", "rejected")},
    }
    gap = (0.1 * ours - theirs).pow(2).flatten(2).mean(-1)
    z = 1000 * (gap / (2 * ABAR)).mean()
    found = objective(scores, {}, {}, ALL_MEAN).loss
    assert float(found) == pytest.approx(float(torch.nn.functional.softplus(-z)), rel=1e-9, abs=1e-12)


def test_shares_of_the_steps_add_up() -> None:
    objective = InversionDPO(steps=2)
    chosen, rejected = gaps(0.002, 0.004), gaps(0.003, 0.001)
    parts = [
        objective.partial(
            {
                "policy": {
                    n: along(g[:, k : k + 1], ABAR[:, k : k + 1])
                    for n, g in (("chosen", chosen), ("rejected", rejected))
                }
            },
            {},
        )
        for k in range(2)
    ]
    assert torch.allclose(objective.finish(sum(parts), {}).loss, loss(objective, chosen, rejected))


def test_a_random_share_of_the_steps_estimates_all_of_them() -> None:
    values, picked = torch.tensor([[0.002, 0.004]], dtype=torch.float64), InversionDPO(steps=2, count=1)
    whole = InversionDPO(steps=2)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    full = whole.partial({"policy": {"chosen": along(values), "rejected": along(zero)}}, {})
    each = []
    for k in (slice(0, 1), slice(1, 2)):
        scores = {"chosen": along(values[:, k], ABAR[:, k]), "rejected": along(zero[:, k], ABAR[:, k])}
        each.append(picked.partial({"policy": scores}, {}))
    assert torch.allclose(sum(each) / 2, full)


@pytest.mark.parametrize(
    "fields", [{"beta": 0.0}, {"guidance": 0.5}, {"steps": 0}, {"count": 0}, {"steps": 4, "count": 4}]
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields)) if len(fields) == 1 else "count"):
        InversionDPO(**fields)


def test_inpo_is_diffusion_dpo_at_other_latents() -> None:
    objective = InPO()
    assert objective.inversion is not None
    assert (objective.inversion.source, objective.inversion.whole) == ("policy", False)
    assert {"ratio", "inversion"} <= objective.needs
    for fields in ({"steps": 0}, {"jitter": 1.5}, {"beta": -1.0}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            InPO(**fields)  # type: ignore[arg-type]
