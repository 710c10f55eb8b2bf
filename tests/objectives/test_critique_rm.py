"""The critique reward model's loss: worked parts, ties, what each part pulls on, refusals."""

import math
from dataclasses import replace

import pytest
import torch
from fixtures import LN2, near, reward, run, tokens
from torch import Tensor

from mmalign.adapters.reward_head import RewardHead
from mmalign.catalogue import lacking
from mmalign.objectives.critique_rm import CritiqueRewardModel
from mmalign.types import LogProbs

CRITIQUES = {"chosen": [[-0.5, -1.0, -1.5], [-2.0]], "rejected": [[-0.25, -0.75], [-1.0, -1.0, -4.0]]}
GIVEN = {"criticised": torch.ones(2)}


def worked() -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    leaves = {
        "chosen": torch.tensor([1.2, 0.3], dtype=torch.float64, requires_grad=True),
        "rejected": torch.tensor([0.4, 0.5], dtype=torch.float64, requires_grad=True),
    }
    sides = {}
    for role, leaf in leaves.items():
        written = tokens(CRITIQUES[role], 2)
        written.values.requires_grad_()
        sides[f"{role}_critique"] = replace(reward(leaf), written=written)
    return {"policy": sides}, leaves


def test_worked_parts() -> None:
    metrics = run(CritiqueRewardModel(), worked()[0], GIVEN).metrics
    assert metrics["loss/score"].mean().item() == pytest.approx(0.584620, abs=1e-6)
    assert metrics["loss/centre"].mean().item() == pytest.approx(0.016, abs=1e-9)
    assert near(metrics["loss/critique"], [1.5, 4.0], 1e-12)
    assert near(metrics["critique_nll"], [0.75, 2.0], 1e-12)


def test_the_loss_is_their_weighted_sum() -> None:
    loss = run(CritiqueRewardModel(score_weight=2.0, critique_weight=0.5), worked()[0], GIVEN).loss
    assert loss.mean().item() == pytest.approx(2 * 0.584620 + 0.016 + 0.5 * 2.75, abs=2e-6)


def test_ties_are_drawn_together_and_a_margin_is_asked_of_the_others() -> None:
    labels = GIVEN | {"tie": torch.tensor([0.0, 1.0]), "margin": torch.tensor([0.3, 9.0])}
    objective = CritiqueRewardModel(ties="label", margin="label", tie_weight=2.0)
    outcome = run(objective, worked()[0], labels)
    assert near(outcome.metrics["loss/score"], [math.log1p(math.exp(-0.5)), 2.0 * 0.04], 1e-7)
    assert outcome.metrics["accuracy"][0] == 1.0 and outcome.metrics["accuracy"][1].isnan()
    assert objective.fields == ("criticised", "margin", "tie")
    assert CritiqueRewardModel().fields == ("criticised",)


def test_each_part_pulls_on_its_own_head() -> None:
    scores, leaves = worked()
    run(CritiqueRewardModel(centre=0.0), scores, GIVEN).loss.sum().backward()
    expected = [1 / (1 + math.exp(0.8)), 1 / (1 + math.exp(-0.2))]
    assert leaves["chosen"].grad is not None and leaves["rejected"].grad is not None
    assert near(leaves["chosen"].grad, [-one for one in expected], 1e-9)
    assert near(leaves["rejected"].grad, expected, 1e-9)
    written = scores["policy"]["chosen_critique"].written
    assert written is not None and written.values.grad is not None
    assert near(written.values.grad[0], [-1 / 3, -1 / 3, -1 / 3, 0, 0], 1e-9)
    assert near(written.values.grad[1], [-1, 0, 0, 0, 0], 1e-9)


def test_bare_answers_have_a_score_and_no_critique() -> None:
    scores, _ = worked()
    outcome = run(CritiqueRewardModel(), scores, {"criticised": torch.tensor([1.0, 0.0])})
    expected = math.log1p(math.exp(0.2)) + 0.01 * 0.64
    assert outcome.loss[1].item() == pytest.approx(expected, abs=1e-9)
    assert near(outcome.metrics["loss/critique"], [1.5, 0.0], 1e-12)
    assert outcome.metrics["critique_nll"][1].isnan()
    outcome.loss.sum().backward()
    written = scores["policy"]["rejected_critique"].written
    assert written is not None and written.values.grad is not None
    assert written.values.grad[0].any() and not written.values.grad[1].any()


def test_the_start_of_equal_scores() -> None:
    scores, _ = worked()
    same = replace(scores["policy"]["chosen_critique"], values=torch.zeros(2, 1, dtype=torch.float64))
    other = replace(scores["policy"]["rejected_critique"], values=torch.zeros(2, 1, dtype=torch.float64))
    loss = run(
        CritiqueRewardModel(), {"policy": {"chosen_critique": same, "rejected_critique": other}}, GIVEN
    ).loss
    assert near(loss, [LN2 + 1.5, LN2 + 4.0], 1e-9)


def test_rows_are_taken_with_what_they_wrote() -> None:
    side = worked()[0]["policy"]["chosen_critique"]
    taken = side.take(torch.tensor([1])).detached()
    assert taken.written is not None and taken.written.nll("mean").tolist() == [2.0]
    assert not taken.written.values.requires_grad


def test_scores_without_a_critique_are_an_error() -> None:
    bare = reward(torch.zeros(2))
    with pytest.raises(ValueError, match="carry no likelihood of what was written"):
        run(CritiqueRewardModel(), {"policy": {"chosen_critique": bare, "rejected_critique": bare}}, GIVEN)


def test_only_a_reward_head_gives_both() -> None:
    from mmalign.adapters.text import Text

    assert lacking(CritiqueRewardModel().needs, Text.offers) == ["reward", "written"]
    assert lacking(CritiqueRewardModel().needs, RewardHead.offers) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("score_weight", 0.0), ("critique_weight", 0.0), ("tie_weight", -1.0), ("centre", -0.1)],
)
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        CritiqueRewardModel(**{field: value})  # type: ignore[arg-type]
