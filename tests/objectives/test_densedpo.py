"""DenseDPO: worked segments, segments that are left out, and labels that do not fit."""

import math
from typing import Any

import pytest
import torch
from fixtures import LN2, agreeing, near, run, surrogate, units
from torch import Tensor

from mmalign.objectives.densedpo import DenseDPO
from mmalign.objectives.dpo import DPO
from mmalign.types import LogProbs, UserError

D = torch.tensor([[-0.015, 0.003, 0.010]], dtype=torch.float64)  # (e - r) of the chosen less of the rejected


def clips(gaps: Tensor = D) -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """Pairs of clips with these differences of errors per segment; the policy's values are leaves."""
    leaves = {"chosen": (-0.5 * (0.2 + gaps)).requires_grad_(), "rejected": torch.full_like(gaps, -0.1)}
    leaves["rejected"].requires_grad_()
    frozen = torch.full_like(gaps, -0.1)
    return {
        "policy": {role: units(leaf, "segment") for role, leaf in leaves.items()},
        "reference": {role: units(frozen, "segment") for role in leaves},
    }, leaves


def test_worked_loss() -> None:
    outcome = run(DenseDPO(beta=500.0), clips()[0], {"segments": [[1, -1, 0]]})
    assert near(outcome.loss, [0.2050582])
    assert outcome.metrics["accuracy"].tolist() == [1.0] and outcome.metrics["segments"].tolist() == [2.0]
    assert near(outcome.metrics["reward/margin"], [(3.75 + 0.75) / 2], 1e-9)


def test_the_side_that_is_better_in_a_segment_gains_there() -> None:
    scores, leaves = clips(torch.zeros(1, 3, dtype=torch.float64))
    outcome = run(DenseDPO(beta=500.0), scores, {"segments": [[1, -1, 0]]})
    outcome.loss.sum().backward()
    assert near(outcome.loss, [LN2], 1e-12)
    assert near(leaves["chosen"].grad[0], [-125.0, 125.0, 0.0], 1e-9)
    assert near(leaves["rejected"].grad[0], [125.0, -125.0, 0.0], 1e-9)


def test_ln2_where_policy_and_reference_agree() -> None:
    scores = agreeing(clips(torch.cat([D, 2 * D]))[0])
    assert near(run(DenseDPO(), scores, {"segments": [[1, 1, -1], [0, 1, 0]]}).loss, [LN2, LN2], 1e-12)


def test_a_pair_without_labelled_segments_teaches_nothing() -> None:
    scores, leaves = clips()
    outcome = run(DenseDPO(), scores, {"segments": [[0, 0, 0]]})
    outcome.loss.sum().backward()
    assert outcome.loss.tolist() == [0.0] and not leaves["chosen"].grad.any()
    assert math.isnan(outcome.metrics["accuracy"].item())


def test_one_segment_is_diffusion_dpo() -> None:
    e_w, e_l = torch.tensor([0.1, 0.2]).double(), torch.tensor([0.12, 0.17]).double()
    whole = {
        "policy": {"chosen": surrogate(e_w), "rejected": surrogate(e_l)},
        "reference": {"chosen": surrogate(0 * e_w + 0.11), "rejected": surrogate(0 * e_l + 0.16)},
    }
    cut = {
        source: {role: units(side.values, "segment") for role, side in roles.items()}
        for source, roles in whole.items()
    }
    loss = run(DenseDPO(beta=500.0), cut, {"segments": [[1], [1]]}).loss
    assert near(loss, run(DPO(beta=500.0), whole).loss.tolist(), 1e-12)


def test_clips_of_fewer_segments() -> None:
    """Padding is of no weight, whatever it holds."""
    scores, _ = clips(torch.cat([D, D]))
    mask = torch.tensor([[True, True, True], [True, True, False]])
    padded = {
        source: {role: units(side.values + (~mask) * 7.5, "segment", mask) for role, side in roles.items()}
        for source, roles in scores.items()
    }
    loss = run(DenseDPO(beta=500.0), padded, {"segments": [[1, -1, 0], [1, -1]]}).loss
    assert near(loss, [0.2050582, 0.2050582])


@pytest.mark.parametrize(
    ("label", "rule"),
    [
        ([1, -1], "needs a list of 3 numbers"),
        (1.0, "needs a list of 3 numbers"),
        ([1, 0.5, 0], "must hold only -1, 0, 1"),
    ],
)
def test_labels_that_do_not_fit(label: Any, rule: str) -> None:
    scores, _ = clips(torch.cat([D, D]))
    with pytest.raises(UserError, match=rf"^segments: sample 1 of the batch {rule}"):
        run(DenseDPO(), scores, {"segments": [[0, 0, 1], label]})


def test_ranges() -> None:
    with pytest.raises(ValueError, match=r"^beta: .*got 0"):
        DenseDPO(beta=0.0)
