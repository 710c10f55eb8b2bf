"""Diffusion-ORPO with the corrected sign: worked value, and what the released sign would have given."""

import pytest
import torch
from fixtures import LN2, fixture_f, fixture_f1, near, run, surrogate

from mmalign.objectives.diffusion_orpo import DiffusionORPO


def test_worked_loss() -> None:
    assert run(DiffusionORPO(), fixture_f1()[0]).loss.mean().item() == pytest.approx(0.2195728, abs=1e-7)


def test_the_released_sign_is_that_of_swapped_roles_in_the_margin() -> None:
    scores = fixture_f1()[0]["policy"]
    swapped = {"policy": {"chosen": scores["rejected"], "rejected": scores["chosen"]}}
    released = (
        run(DiffusionORPO(), swapped).metrics["loss/preference"] + scores["chosen"].mean_error().detach()
    )
    assert released.mean().item() == pytest.approx(0.2190728, abs=1e-7)


def test_value_where_both_errors_agree() -> None:
    e = torch.tensor([0.0, 0.3], dtype=torch.float64)
    scores = {"policy": {"chosen": surrogate(e), "rejected": surrogate(e)}}
    assert near(run(DiffusionORPO(), scores).loss, [0.1 * LN2, 0.3 + 0.1 * LN2], 1e-12)


def test_gradient_lowers_the_chosen_error_and_faintly_raises_the_rejected() -> None:
    scores, errors = fixture_f1()
    run(DiffusionORPO(), scores).loss.sum().backward()
    assert near(errors["chosen"].grad - 1, (-errors["rejected"].grad).tolist(), 1e-12)
    assert near(errors["rejected"].grad, [-0.05, -0.05], 1e-3)


def test_only_errors_are_scored() -> None:
    assert set(DiffusionORPO().roles) == {"policy"} and DiffusionORPO().needs == {"error"}
    with pytest.raises(ValueError, match="prediction error"):
        run(DiffusionORPO(), fixture_f())


def test_ranges() -> None:
    with pytest.raises(ValueError, match=r"^beta: .*got 0"):
        DiffusionORPO(beta=0.0)
