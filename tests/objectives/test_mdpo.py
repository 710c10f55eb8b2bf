"""mDPO: worked values of its three terms, what each pulls on, and the view it asks for."""

import pytest
import torch
from fixtures import LN2, exact, fixture_f, from_ratios, near, run
from torch import Tensor

from mmalign.data._views import CHANGES
from mmalign.objectives.dpo import DPO
from mmalign.objectives.mdpo import MDPO
from mmalign.types import LogProbs, View

POLICY = {"chosen": -12.0, "rejected": -15.0, "chosen_crop": -18.0}
REFERENCE = {"chosen": -13.0, "rejected": -14.5, "chosen_crop": -17.0}
CHANGED = ("crop", "noise", "black", "other_image", "reversed_frames", "shuffled_frames", "dropped_frames")


def worked() -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """Log-likelihoods of one pair and its view; the policy's are leaves."""
    leaves = {r: torch.tensor([[v]], dtype=torch.float64, requires_grad=True) for r, v in POLICY.items()}
    reference = {r: exact(torch.tensor([[v]], dtype=torch.float64)) for r, v in REFERENCE.items()}
    return {"policy": {r: exact(leaf) for r, leaf in leaves.items()}, "reference": reference}, leaves


def test_worked_loss_and_terms() -> None:
    outcome = run(MDPO(), worked()[0])
    assert near(outcome.loss, [1.863493])
    assert near(outcome.metrics["loss/pair"], [0.620957])
    assert near(outcome.metrics["loss/image"], [0.598139])
    assert near(outcome.metrics["loss/anchor"], [0.644397])


def test_worked_gradients() -> None:
    """All three terms pull on the chosen answer; rejected and view are pushed down by one each."""
    scores, leaves = worked()
    run(MDPO(), scores).loss.sum().backward()
    assert leaves["chosen"].grad.item() == pytest.approx(-0.138776, abs=1e-6)
    # beta * sigmoid(-0.15) and beta * sigmoid(-0.2)
    assert leaves["rejected"].grad.item() == pytest.approx(0.0462570, abs=1e-6)
    assert leaves["chosen_crop"].grad.item() == pytest.approx(0.0450166, abs=1e-6)


def test_weights_scale_their_terms() -> None:
    scores = worked()[0]
    weighted = run(MDPO(pair_weight=2.0, image_weight=0.5, anchor_weight=0.1), scores).loss
    assert near(weighted, [2 * 0.620957 + 0.5 * 0.598139 + 0.1 * 0.644397], 4e-6)
    only = run(MDPO(pair_weight=0.0, anchor_weight=0.0), scores).loss
    assert near(only, [0.598139])


def test_the_first_term_is_dpo() -> None:
    pair = fixture_f()
    scores = {s: {**roles, "chosen_crop": roles["chosen"]} for s, roles in pair.items()}
    assert near(run(MDPO(), scores).metrics["loss/pair"], run(DPO(), pair).loss.tolist(), 1e-12)


def test_delta_moves_the_anchor_alone() -> None:
    """The worked reward of the chosen answer is 0.1."""
    at = run(MDPO(delta=0.1), worked()[0])
    assert near(at.metrics["loss/anchor"], [LN2], 1e-12)
    assert near(at.metrics["loss/pair"], [0.620957]) and near(at.metrics["loss/image"], [0.598139])
    assert at.metrics["anchor_accuracy"].tolist() == [0.0]
    assert run(MDPO(delta=0.05), worked()[0]).metrics["anchor_accuracy"].tolist() == [1.0]


def test_metrics() -> None:
    metrics = run(MDPO(), worked()[0]).metrics
    assert near(metrics["reward/chosen"], [0.1]) and near(metrics["reward/rejected"], [-0.05])
    assert near(metrics["reward/chosen_crop"], [-0.1]) and near(metrics["reward/margin"], [0.15])
    assert near(metrics["image_margin"], [0.2])
    assert metrics["image_accuracy"].tolist() == [1.0] and metrics["accuracy"].tolist() == [1.0]


@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_three_ln2_where_policy_and_reference_agree(beta: float) -> None:
    scores = worked()[0]
    agreeing = {"policy": scores["policy"], "reference": scores["policy"]}
    outcome = run(MDPO(beta), agreeing)
    assert near(outcome.loss, [3 * LN2], 1e-12)
    assert outcome.metrics["image_accuracy"].tolist() == [0.0]  # a tie is no success


def test_signs_at_the_start() -> None:
    """Chosen up by all three halves of beta, rejected and view down by one each."""
    zero = torch.zeros(2)
    scores, leaves = from_ratios(chosen=zero, rejected=zero, chosen_crop=zero)
    run(MDPO(), scores).loss.sum().backward()
    assert near(leaves["chosen"].grad[:, 0], [-0.15, -0.15], 1e-7)
    assert near(leaves["rejected"].grad[:, 0], [0.05, 0.05], 1e-7)
    assert near(leaves["chosen_crop"].grad[:, 0], [0.05, 0.05], 1e-7)


def test_extreme_margins() -> None:
    h = torch.tensor([1e4, -1e4])
    scores, leaves = from_ratios(chosen=h, rejected=-h, chosen_crop=-h)
    loss = run(MDPO(), scores).loss
    loss.sum().backward()
    assert near(loss, [0.0, 2000 + 2000 + 1000], 1e-2)
    assert near(leaves["chosen"].grad[:, 0], [0.0, -0.3], 1e-6)


@pytest.mark.parametrize("corruption", CHANGED)
def test_the_corruption_names_the_view(corruption: str) -> None:
    objective = MDPO(corruption=corruption)  # type: ignore[arg-type]
    role = f"chosen_{corruption}"
    assert objective.views == {role: View("chosen", corruption)}
    assert objective.roles["policy"] == objective.roles["reference"] == ("chosen", "rejected", role)
    assert objective.detached == ()
    assert CHANGES[corruption].media, "the change must be about media"


@pytest.mark.parametrize(
    ("field", "value"),
    [("beta", 0.0), ("pair_weight", -1.0), ("image_weight", 0.0), ("anchor_weight", -0.1)],
)
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        MDPO(**{field: value})
