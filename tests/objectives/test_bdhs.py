"""BDHS: the worked mix of two pairs, what each pulls on, and rows that lack one of them."""

import pytest
import torch
from fixtures import LN2, agreeing, exact, fixture_f, from_ratios, near, run
from torch import Tensor

from mmalign.objectives.bdhs import BDHS
from mmalign.objectives.dpo import DPO
from mmalign.types import LogProbs

# margins 1.5 to the rejected answer and 2.0 to the one written blind
POLICY = {"chosen": -12.0, "rejected": -15.0, "bdhs": -18.0}
REFERENCE = {"chosen": -13.0, "rejected": -14.5, "bdhs": -17.0}


def worked() -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    leaves = {r: torch.tensor([[v]], dtype=torch.float64, requires_grad=True) for r, v in POLICY.items()}
    reference = {r: exact(torch.tensor([[v]], dtype=torch.float64)) for r, v in REFERENCE.items()}
    return {"policy": {r: exact(leaf) for r, leaf in leaves.items()}, "reference": reference}, leaves


def test_worked_mix() -> None:
    outcome = run(BDHS(), worked()[0])
    assert near(outcome.loss, [0.609548])
    assert near(outcome.metrics["loss/pair"], [0.5 * 0.620957])
    assert near(outcome.metrics["loss/bdhs"], [0.5 * 0.598139])
    assert near(outcome.metrics["bdhs_margin"], [0.2]) and near(outcome.metrics["reward/margin"], [0.15])


def test_gamma_weighs_the_two() -> None:
    loss = run(BDHS(gamma=0.8), worked()[0]).loss
    assert near(loss, [0.8 * 0.620957 + 0.2 * 0.598139], 2e-6)


def test_worked_gradients() -> None:
    """Halves of beta sigmoid(-0.15) and beta sigmoid(-0.2); the chosen answer takes both."""
    scores, leaves = worked()
    run(BDHS(), scores).loss.sum().backward()
    found = {role: leaf.grad.item() for role, leaf in leaves.items() if leaf.grad is not None}
    assert found["rejected"] == pytest.approx(0.5 * 0.0462570, abs=1e-7)
    assert found["bdhs"] == pytest.approx(0.5 * 0.0450166, abs=1e-7)
    assert found["chosen"] == pytest.approx(-found["rejected"] - found["bdhs"], abs=1e-12)


def test_without_rejected_answers_only_the_blind_pair_is_scored() -> None:
    objective = BDHS(gamma=0.0)
    assert objective.roles["policy"] == objective.roles["reference"] == ("chosen", "bdhs")
    scores = {
        source: {r: s for r, s in sides.items() if r != "rejected"} for source, sides in worked()[0].items()
    }
    assert near(run(objective, scores).loss, [0.598139])
    assert near(run(objective, scores).metrics["reward/margin"], [0.2])


def test_a_row_whose_only_other_answer_is_blind_has_gamma_zero() -> None:
    scores = worked()[0]
    same = {source: {**sides, "rejected": sides["bdhs"]} for source, sides in scores.items()}
    for gamma in (0.1, 0.5, 0.9):
        assert near(run(BDHS(gamma=gamma), same).loss, run(BDHS(gamma=0.0), scores).loss.tolist(), 1e-12)


def test_each_term_is_dpo() -> None:
    pair = fixture_f()
    scores = {s: {**sides, "bdhs": sides["rejected"]} for s, sides in pair.items()}
    assert near(run(BDHS(gamma=0.3), scores).loss, run(DPO(), pair).loss.tolist(), 1e-12)
    assert near(run(BDHS(), agreeing(scores)).loss, [LN2, LN2], 1e-12)


def test_signs_at_the_start() -> None:
    zero = torch.zeros(2)
    scores, leaves = from_ratios(chosen=zero, rejected=zero, bdhs=zero)
    run(BDHS(gamma=0.25), scores).loss.sum().backward()
    found = {role: leaf.grad[:, 0] for role, leaf in leaves.items() if leaf.grad is not None}
    assert near(found["chosen"], [-0.05, -0.05], 1e-8)
    assert near(found["rejected"], [0.0125, 0.0125], 1e-8) and near(found["bdhs"], [0.0375, 0.0375], 1e-8)


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("gamma", 1.0), ("gamma", -0.1)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        BDHS(**{field: value})
