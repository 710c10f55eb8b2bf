"""The winner-preserving safeguard: worked lambda and gradients, its first-order promise, and its scopes."""

from dataclasses import replace

import pytest
import torch
from fixtures import ALL_MEAN, fixture_f1, fixture_f2, near, predicted, run
from torch import Tensor

from mmalign.objectives._transforms.sdpo import SDPO
from mmalign.objectives.dmpo import DMPO
from mmalign.objectives.dpo import DPO
from mmalign.objectives.mapo import MaPO
from mmalign.types import LogProbs, Objective, Scores

Pair = tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]


def pairs(count: int = 6, seed: int = 0, elements: tuple[int, ...] = (2, 3, 3)) -> Pair:
    """Random pairs of small latents, and the policy's predictions as leaves; of every second pair the two
    sides are wrong in much the same way."""
    generator = torch.Generator().manual_seed(seed)

    def latents() -> Tensor:
        return torch.randn(count, 1, *elements, generator=generator, dtype=torch.float64)

    target = latents()
    alike = (torch.arange(count) % 2).reshape(-1, *[1] * (target.ndim - 1))
    chosen = 0.5 * latents()
    wrong = {"chosen": chosen, "rejected": 1.5 * alike * chosen + 0.5 * latents()}
    leaves = {role: (target + by).requires_grad_() for role, by in wrong.items()}
    scores = {
        "policy": {role: predicted(leaf, target) for role, leaf in leaves.items()},
        "reference": {role: predicted(target + 0.5 * latents(), target) for role in leaves},
    }
    return scores, leaves


def test_worked_lambda_and_gradients() -> None:
    scores, leaves = fixture_f2()
    changed = SDPO(mu=0.6)(scores, {}, ALL_MEAN)
    assert near(changed.metrics["loser_scale"], [0.32], 1e-9)
    outcome = run(DPO(beta=20.0), changed.scores)
    assert near(outcome.loss, [0.4031860]) and near(outcome.metrics["reward/margin"], [0.7])
    outcome.loss.sum().backward()
    assert near(leaves["chosen"].grad[0, 0], [0.663624, 0.663624])
    assert near(leaves["rejected"].grad[0, 0], [-0.424720, -0.106180])


def test_worked_gradients_without_it() -> None:
    scores, leaves = fixture_f2()
    loss = run(DPO(beta=20.0), scores).loss
    loss.sum().backward()
    assert near(loss, [0.4031860])
    assert near(leaves["chosen"].grad[0, 0], [0.663624, 0.663624])
    assert near(leaves["rejected"].grad[0, 0], [-1.327249, -0.331812])


@pytest.mark.parametrize("objective", [DPO(beta=20.0), DMPO(beta=20.0), MaPO()])
@pytest.mark.parametrize("scope", ["per_pair", "per_batch"])
def test_no_value_changes_and_only_the_rejected_gradient(objective: Objective, scope: str) -> None:
    scores, leaves = pairs()
    plain = run(objective, scores).loss
    plain.sum().backward(retain_graph=True)
    before = {role: leaf.grad for role, leaf in leaves.items()}
    for leaf in leaves.values():
        leaf.grad = None
    changed = SDPO(mu=0.9, scope=scope)(scores, {}, ALL_MEAN)  # type: ignore[arg-type]
    loss = run(objective, changed.scores).loss
    loss.sum().backward()
    scale = changed.metrics["loser_scale"].reshape(-1, 1, 1, 1, 1)
    assert torch.equal(loss, plain) and ((scale >= 0) & (scale <= 1)).all() and (scale < 1).any()
    assert torch.equal(leaves["chosen"].grad, before["chosen"])
    assert torch.allclose(leaves["rejected"].grad, scale * before["rejected"], rtol=1e-9)


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
def test_a_small_step_keeps_its_share_of_the_gain_of_the_winner(mu: float) -> None:
    """To first order, where both predictions move by both gradients; without the guard some winners lose."""
    scores, leaves = pairs(64)

    def gain(scores: Scores) -> tuple[Tensor, Tensor]:
        for leaf in leaves.values():
            leaf.grad = None
        run(DPO(beta=20.0), scores).loss.sum().backward(retain_graph=True)
        residual = (leaves["chosen"] - scores["policy"]["chosen"].target).detach()
        alone = (residual * leaves["chosen"].grad).flatten(1).sum(-1)
        both = (residual * (leaves["chosen"].grad + leaves["rejected"].grad)).flatten(1).sum(-1)
        return alone, both

    alone, both = gain(SDPO(mu=mu)(scores, {}, ALL_MEAN).scores)
    assert (alone > 0).all() and (both >= mu * alone - 1e-12).all()
    alone, both = gain(scores)
    assert (both < mu * alone).any()


def test_sides_that_do_not_pull_against_each_other_are_left_alone() -> None:
    scores, _ = fixture_f2()
    rejected = scores["policy"]["rejected"]
    assert rejected.prediction is not None and rejected.target is not None
    mirrored = replace(rejected, prediction=2 * rejected.target - rejected.prediction)
    scores["policy"]["rejected"] = mirrored
    assert SDPO()(scores, {}, ALL_MEAN).metrics["loser_scale"].tolist() == [1.0]


def test_one_lambda_for_the_step_counts_every_process() -> None:
    scores, _ = pairs(4)

    def elsewhere(values: Tensor, where: Tensor | None = None) -> Tensor:
        return torch.cat([values, torch.zeros_like(values) + 0.3]).mean()

    policy = scores["policy"]
    u_w, u_l = (
        (policy[role].prediction - policy[role].target).detach().flatten(1)  # type: ignore[operator]
        for role in ("chosen", "rejected")
    )
    own, cross = ((u_w * u).mean(-1).mean() / 2 + 0.15 for u in (u_w, u_l))
    objective = SDPO(mu=0.6, scope="per_batch")
    scale = objective(scores, {}, elsewhere).metrics["loser_scale"]
    assert near(scale, [float(0.4 * own / cross)] * 4, 1e-9)
    assert objective.batch_coupled and not SDPO().batch_coupled


def test_pairs_do_not_depend_on_each_other_or_their_order() -> None:
    scores, _ = pairs()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = {s: {r: side.take(order) for r, side in roles.items()} for s, roles in scores.items()}
    scale = SDPO()(scores, {}, ALL_MEAN).metrics["loser_scale"]
    assert torch.equal(SDPO()(permuted, {}, ALL_MEAN).metrics["loser_scale"], scale[order])


def test_lambda_does_not_depend_on_the_size_of_latents() -> None:
    small, _ = pairs(3, elements=(4, 2, 2))
    large = {
        s: {
            r: predicted(side.prediction.repeat(1, 1, 1, 16, 16), side.target.repeat(1, 1, 1, 16, 16))
            for r, side in roles.items()
        }
        for s, roles in small.items()
    }
    for scores in (small, large):
        scale = SDPO()(scores, {}, ALL_MEAN).metrics["loser_scale"]
        assert near(scale, SDPO()(small, {}, ALL_MEAN).metrics["loser_scale"].tolist(), 1e-9)


def test_scores_without_predictions_are_an_error() -> None:
    assert SDPO().needs == {"prediction"}
    with pytest.raises(ValueError, match="^sdpo: these scores carry no predictions"):
        SDPO()(fixture_f1()[0], {}, ALL_MEAN)


@pytest.mark.parametrize("mu", [-0.1, 1.1])
def test_ranges(mu: float) -> None:
    with pytest.raises(ValueError, match=rf"^mu: .*got {mu}"):
        SDPO(mu=mu)
