"""V-DPO: worked values of the guided likelihood, its gradients, and which roles its options ask for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from fixtures import LN2, fixture_f, near, run, tokens, with_ids
from torch import Tensor
from whole import from_logits

from mmalign.objectives.dpo import DPO
from mmalign.objectives.vdpo import VDPO
from mmalign.types import LogProbs, UserError, View

POLICY = {
    "chosen": [-0.2, -0.5],
    "rejected": [-0.9, -1.0],
    "chosen_gray": [-0.6, -0.4],
    "rejected_gray": [-0.7, -0.9],
}
REFERENCE = {"chosen": [-0.3, -0.5], "rejected": [-0.9, -0.8], "chosen_gray": [-0.5, -0.6]}


def worked(extra: int = 0) -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """One pair with both sides under the empty picture, and the policy's values as leaves."""
    scores = {
        "policy": {role: tokens([row], extra) for role, row in POLICY.items()},
        "reference": {role: tokens([row], extra) for role, row in REFERENCE.items()},
    }
    leaves = {role: side.values.requires_grad_() for role, side in scores["policy"].items()}
    return scores, leaves


@pytest.mark.parametrize("extra", [0, 2])
def test_worked_loss(extra: int) -> None:
    """Guided sums -0.55 and -2.05 against -0.8 and -1.7."""
    outcome = run(VDPO(), worked(extra)[0])
    assert near(outcome.metrics["reward/chosen"], [0.1 * 0.25])
    assert near(outcome.metrics["reward/rejected"], [0.1 * -0.35])
    assert near(outcome.loss, [0.663597])
    assert near(outcome.metrics["picture_gain/chosen"], [0.3])
    assert near(outcome.metrics["picture_gain/rejected"], [-0.3])


def test_other_forms_of_the_loss() -> None:
    """Of a guided margin of 0.6: (0.6 - 5)^2, and 0.9 and 0.1 of both signs' log-sigmoids."""
    assert near(run(VDPO(form="ipo"), worked()[0]).loss, [19.36], 1e-9)
    assert near(run(VDPO(label_smoothing=0.1), worked()[0]).loss, [0.669597])
    with pytest.raises(ValueError, match=r"^label_smoothing: \[0, 0.5\), got 0.5"):
        VDPO(label_smoothing=0.5)
    with pytest.raises(ValueError, match="^label_smoothing: only read with form sigmoid"):
        VDPO(label_smoothing=0.1, form="ipo")


def test_gradients_are_guided_and_none_reaches_the_empty_picture() -> None:
    """d loss / d log p = -beta * g * sigmoid(-0.06)."""
    scores, leaves = worked()
    run(VDPO(), scores).loss.sum().backward()
    slope = 0.1 * 1.5 * torch.sigmoid(torch.tensor(-0.06, dtype=torch.float64)).item()
    assert near(leaves["chosen"].grad[0], [-slope, -slope], 1e-12)  # type: ignore[index]
    assert near(leaves["rejected"].grad[0], [slope, slope], 1e-12)  # type: ignore[index]
    assert leaves["chosen_gray"].grad is None and leaves["rejected_gray"].grad is None


def test_guidance_one_is_dpo_exactly() -> None:
    objective = VDPO(guidance=1.0)
    assert objective.roles == {"policy": ("chosen", "rejected"), "reference": ("chosen", "rejected")}
    assert objective.views == {} and objective.detached == ()
    scores, other = fixture_f(), fixture_f()
    ours, theirs = run(objective, scores).loss, run(DPO(), other).loss
    assert torch.equal(ours, theirs)
    ours.sum().backward()
    theirs.sum().backward()
    for role in ("chosen", "rejected"):
        ours_grad, theirs_grad = scores["policy"][role].values.grad, other["policy"][role].values.grad
        assert torch.equal(ours_grad, theirs_grad)  # type: ignore[arg-type]


def test_ln2_at_the_start_if_pictures_explain_both_sides_alike() -> None:
    scores = worked()[0]
    same = dict.fromkeys(POLICY, scores["policy"]["chosen"])
    assert near(run(VDPO(), {"policy": same, "reference": same}).loss, [LN2], 1e-12)


def test_the_reference_may_be_the_unguided_one() -> None:
    """Under the reference's empty picture -1.1 and -1.5: guided -0.5 and -2.1."""
    scores, _ = worked()
    policy = {role: scores["policy"][role] for role in ("chosen", "rejected")}
    reference = {**scores["reference"], "rejected_gray": tokens([[-0.9, -0.6]])}
    objective = VDPO(unguided="reference")
    outcome = run(objective, {"policy": policy, "reference": reference})
    assert near(outcome.loss, torch.nn.functional.softplus(torch.tensor([-0.1 * (0.3 + 0.4)])).tolist())
    assert objective.roles["policy"] == ("chosen", "rejected") and objective.detached == ()
    assert objective.roles["reference"] == ("chosen", "rejected", "chosen_gray", "rejected_gray")
    assert set(objective.views) == {"chosen_gray", "rejected_gray"}


def test_the_visual_term() -> None:
    """Plain log-ratios 0.1 with the picture and 0.1 without: ln 2 more, and only the chosen side moves."""
    scores, leaves = worked()
    objective = VDPO(visual_weight=0.5)
    outcome = run(objective, scores)
    assert near(outcome.metrics["visual_margin"], [0.0], 1e-12)
    assert near(outcome.loss, [0.663597 + 0.5 * LN2])
    assert near(outcome.metrics["loss/pair"], [0.663597])
    assert near(outcome.metrics["loss/visual"], [0.5 * LN2])
    outcome.loss.sum().backward()
    assert leaves["chosen_gray"].grad is None
    guided = 0.15 * torch.sigmoid(torch.tensor(-0.06, dtype=torch.float64)).item()
    assert near(leaves["chosen"].grad[0], [-guided - 0.025] * 2, 1e-9)  # type: ignore[index]
    assert objective.roles["reference"] == ("chosen", "rejected", "chosen_gray")


def test_the_visual_term_alone_needs_one_view() -> None:
    objective = VDPO(guidance=1.0, visual_weight=1.0, picture="black")
    assert objective.roles["policy"] == objective.roles["reference"] == ("chosen", "rejected", "chosen_black")
    assert objective.views == {"chosen_black": View("chosen", "black")}
    assert objective.detached == ("chosen_black",)


def test_worked_logits() -> None:
    """[2, 0.5, -1] guided by 1.5 against [1, 1, 0]."""
    seen = torch.tensor([[[2.0, 0.5, -1.0]]], dtype=torch.float64, requires_grad=True)
    empty = torch.tensor([[[1.0, 1.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[0]])
    policy = {
        "chosen": from_logits(seen, ids),
        "rejected": from_logits(seen.detach(), torch.tensor([[2]])),
        "chosen_gray": from_logits(empty, ids),
        "rejected_gray": from_logits(empty, torch.tensor([[2]])),
    }
    zero = {
        r: replace(policy[r], values=torch.zeros(1, 1, dtype=torch.float64)) for r in ("chosen", "rejected")
    }
    outcome = run(VDPO(beta=1.0, use_logits=True), {"policy": policy, "reference": zero})
    assert near(outcome.metrics["reward/chosen"], [-0.116640])
    outcome.loss.sum().backward()
    assert empty.grad is None
    assert seen.grad is not None and seen.grad[0, 0, 0] < 0 < seen.grad[0, 0, 1]


def test_logits_are_mixed_only_if_asked_for() -> None:
    assert VDPO(use_logits=True).needs == {"ratio", "units", "tokens", "distribution"}
    assert VDPO().needs == {"ratio", "units"}
    with pytest.raises(ValueError, match="no distributions"):
        run(VDPO(use_logits=True), worked()[0])


def test_an_answer_cut_differently_under_another_picture_is_refused() -> None:
    """Only pictures of other sizes can do that; the ids tell."""
    scores, _ = worked()
    policy = {role.replace("gray", "other_image"): side for role, side in scores["policy"].items()}
    policy = {role: with_ids(side, [[3, 4]]) for role, side in policy.items()}
    objective = VDPO(picture="other_image")
    assert objective.needs - VDPO().needs == {"tokens"}
    assert near(run(objective, {**scores, "policy": policy}).loss, [0.663597])
    policy["rejected_other_image"] = with_ids(policy["rejected_other_image"], [[3]])
    with pytest.raises(UserError, match=r"^objective.picture: other_image: an answer is cut"):
        run(objective, {**scores, "policy": policy})


def test_the_empty_picture_may_be_the_mean_of_other_rows() -> None:
    """The mean is as large as the picture itself, so that no answer can be cut differently under it."""
    objective = VDPO(picture="mean_image", mean_of=3)
    assert objective.views == {
        "chosen_mean_image": View("chosen", "mean_image", 3),
        "rejected_mean_image": View("rejected", "mean_image", 3),
    }
    assert objective.needs == VDPO().needs and objective.detached == tuple(objective.views)
    assert {view.count for view in VDPO(picture="mean_image").views.values()} == {8}
    assert {view.count for view in VDPO(picture="other_image").views.values()} == {1}
    scores, _ = worked()
    policy = {role.replace("gray", "mean_image"): side for role, side in scores["policy"].items()}
    assert near(run(objective, {**scores, "policy": policy}).loss, [0.663597])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "^beta: .*got 0"),
        ({"guidance": 0.0}, "^guidance: .*got 0"),
        ({"visual_weight": -1.0}, "^visual_weight: .*got -1"),
        ({"guidance": 1.0, "use_logits": True}, "^use_logits: "),
        ({"picture": "mean_image", "mean_of": 1}, "^mean_of: must be 2 or more, got 1; see other_image"),
        ({"mean_of": 4}, "^mean_of: only read with picture mean_image"),
    ],
)
def test_ranges(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VDPO(**options)
