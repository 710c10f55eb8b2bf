"""MaPO: worked values on denoising errors and its bounded transform near and far from zero."""

import math

import pytest
import torch
from fixtures import LN2, fixture_f, fixture_f1, near, run, surrogate
from torch import Tensor

from mmalign.objectives.mapo import MaPO
from mmalign.types import LogProbs


def pair(chosen: Tensor, rejected: Tensor) -> dict[str, dict[str, LogProbs]]:
    return {"policy": {"chosen": surrogate(chosen), "rejected": surrogate(rejected)}}


def transform(errors: Tensor) -> Tensor:
    """s(e), read off the margin to an error of 0, where s is 1."""
    return 1 + run(MaPO(timesteps=1), pair(errors, torch.zeros_like(errors))).metrics["reward/margin"]


def test_worked_losses() -> None:
    loss = run(MaPO(), fixture_f1()[0]).loss
    assert loss.mean().item() == pytest.approx(0.5138435, abs=2e-6)


def test_worked_transform() -> None:
    assert near(transform(torch.tensor([0.1, 0.2], dtype=torch.float64)), [0.975208, 0.950833])


def test_no_reference_is_scored() -> None:
    assert set(MaPO().roles) == {"policy"}
    run(MaPO(), {"policy": fixture_f1()[0]["policy"]})


def test_value_where_both_errors_agree() -> None:
    e = torch.tensor([0.0, 0.05, 0.3], dtype=torch.float64)
    assert near(run(MaPO(), pair(e, e)).loss, [x + 0.1 * LN2 for x in e.tolist()], 1e-12)


def test_transform_is_smooth_through_zero() -> None:
    """s(e) = x / (e^x - 1) with x = e / 2; 1 - x / 2 + x^2 / 12 - x^4 / 720 near 0."""
    e = torch.tensor([0.0, 1e-12, 1e-6, 1.9e-4, 2.0e-4, 2.1e-4, 1e-3, 1e-2], dtype=torch.float64)
    x = (e / 2).tolist()
    expected = [1 - v / 2 + v * v / 12 - v**4 / 720 for v in x]
    assert near(transform(e), expected, 1e-12)
    far = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    assert near(transform(far), [(v / 2) / math.expm1(v / 2) for v in far.tolist()], 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_from_zero_to_a_diverged_model(dtype: torch.dtype) -> None:
    """At e = 0 the slope of s is -k / 2; far out e^x overflows, and the gradient must not."""
    e = torch.tensor([0.0, 1e-9, 1e-4, 2.0001e-4, 0.1, 200.0, 1e4], dtype=dtype, requires_grad=True)
    rejected = e.detach().clone().requires_grad_()
    loss = run(MaPO(), pair(e, rejected)).loss
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(e.grad).all() and torch.isfinite(rejected.grad).all()
    # d loss / d e_chosen = 1 + beta * T * (k / 2) / 2 at equal errors near 0
    assert near(e.grad[:2], [13.5, 13.5], 1e-4) and near(rejected.grad[:2], [-12.5, -12.5], 1e-4)
    assert near(e.grad[-1:], [1.0], 1e-6) and near(rejected.grad[-1:], [0.0], 1e-6)


def test_gradient_lowers_the_chosen_error_and_raises_the_rejected() -> None:
    scores, errors = fixture_f1()
    run(MaPO(), scores).loss.sum().backward()
    assert (errors["chosen"].grad > 1).all()  # the anchor alone gives 1
    assert (errors["rejected"].grad < 0).all()


def test_raw_errors_are_used_whatever_the_timestep_weight() -> None:
    e_w, e_l = torch.tensor([0.1, 0.2]), torch.tensor([0.12, 0.17])
    weight = torch.tensor([0.25, 3.0])
    weighted = {"policy": {"chosen": surrogate(e_w, weight), "rejected": surrogate(e_l, weight)}}
    assert torch.equal(run(MaPO(), weighted).loss, run(MaPO(), pair(e_w, e_l)).loss)


def test_metrics() -> None:
    metrics = run(MaPO(), fixture_f1()[0]).metrics
    assert metrics["accuracy"].tolist() == [1.0, 0.0]
    assert near(
        metrics["loss/preference"] + torch.tensor([0.1, 0.2]), run(MaPO(), fixture_f1()[0]).loss.tolist()
    )


def test_exact_scores_have_no_error() -> None:
    with pytest.raises(ValueError, match="prediction error"):
        run(MaPO(), fixture_f())


@pytest.mark.parametrize("field", ["beta", "k", "timesteps"])
def test_ranges(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got 0"):
        MaPO(**{field: 0})
