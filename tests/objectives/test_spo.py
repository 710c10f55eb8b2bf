"""SPO: worked steps, what a step-aware judge keeps, and its range."""

import math
from typing import Any

import pytest
import torch
from fixtures import LN2, agreeing, near, run, steps_with

from mmalign.objectives.spo import SPO
from mmalign.types import UserError

SURE = 4.0  # a judge's margin that every threshold keeps
PATHS: dict[str, Any] = {"chosen": [[0.05, 0.20]], "rejected": [[-0.02, 0.0]]}


def test_worked_loss() -> None:
    outcome = run(SPO(), steps_with(**PATHS)[0], {"step_margins": [[SURE, SURE]]})
    assert near(outcome.loss, [0.3646392])
    assert outcome.metrics["steps_kept"].tolist() == [1.0] and outcome.metrics["accuracy"].tolist() == [1.0]


def test_the_judge_says_which_side_is_better_at_a_step() -> None:
    swapped = steps_with(chosen=[[0.05, 0.0]], rejected=[[-0.02, 0.20]])[0]
    assert near(run(SPO(), swapped, {"step_margins": [[SURE, -SURE]]}).loss, [0.3646392])


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, 3), (0.3, 2), (0.4, 1)])
def test_steps_on_which_the_judge_is_undecided_are_left_out(threshold: float, kept: int) -> None:
    """The two-way softmax of margins 0.2, 0.7 and 1.0 differs by 0.0997, 0.3364 and 0.4621."""
    margins = [0.2, 0.7, 1.0]
    differences = [1 / (1 + math.exp(-m)) - 1 / (1 + math.exp(m)) for m in margins]
    assert differences == pytest.approx([0.0997, 0.3364, 0.4621], abs=1e-4)
    scores, leaves = steps_with(chosen=[[0.0] * 3], rejected=[[0.0] * 3])
    outcome = run(SPO(threshold=threshold), scores, {"step_margins": [margins]})
    outcome.loss.sum().backward()
    assert near(outcome.metrics["steps_kept"], [kept / 3])
    expected = [0.0] * (3 - kept) + [-10 * 0.5 / kept] * kept
    assert near(leaves["chosen"].grad[0], expected, 1e-9)
    assert near(leaves["rejected"].grad[0], [-g for g in expected], 1e-9)


def test_a_path_without_a_kept_step_teaches_nothing() -> None:
    scores, leaves = steps_with(**PATHS)
    outcome = run(SPO(), scores, {"step_margins": [[0.0, 0.1]]})
    outcome.loss.sum().backward()
    assert outcome.loss.tolist() == [0.0] and not leaves["chosen"].grad.any()
    assert math.isnan(outcome.metrics["accuracy"].item())


def test_ln2_where_policy_and_reference_agree() -> None:
    scores = agreeing(steps_with(**PATHS)[0])
    assert near(run(SPO(), scores, {"step_margins": [[SURE, -SURE]]}).loss, [LN2], 1e-12)


def test_range_of_the_loss() -> None:
    scores, _ = steps_with(chosen=[[50.0], [-50.0]], rejected=[[-50.0], [50.0]])
    loss = run(SPO(), scores, {"step_margins": [[SURE], [SURE]]}).loss
    assert near(loss, [0.126131, 2.13], 4e-3) and near(loss[:1], [0.126131], 1e-6)


def test_a_margin_per_step_is_needed() -> None:
    with pytest.raises(UserError, match="^step_margins: sample 0 of the batch needs a list of 2 numbers"):
        run(SPO(), steps_with(**PATHS)[0], {"step_margins": [[SURE]]})
    with pytest.raises(UserError, match="^step_margins: .*got 4.0"):
        run(SPO(), steps_with(**PATHS)[0], {"step_margins": torch.tensor([SURE]).tolist()})


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("clip", 1.0), ("threshold", 1.0)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        SPO(**{field: value})
