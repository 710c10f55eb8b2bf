"""CHiP: worked values of its joint margin and of the divergence, and what each part pulls on."""

from dataclasses import dataclass, replace

import pytest
import torch
from fixtures import LN2, near, run, tokens, with_ids
from torch import Tensor
from whole import Whole, from_logits

from mmalign.objectives.chip import CHiP
from mmalign.types import LogProbs, View

POLICY = {"chosen": -12.0, "rejected": -15.0, "chosen_noise": -18.0}
REFERENCE = {"chosen": -13.0, "rejected": -14.5, "chosen_noise": -17.0}


@dataclass(frozen=True)
class Given(Whole):
    """A handle whose divergence is given."""

    divergence: Tensor

    def kl_from(self, other: Whole) -> Tensor:
        return self.divergence


def worked() -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """One pair and its view, with divergences 0.8 and 1.1; the policy's likelihoods and divergences are
    leaves. The sides have no token in common that a correction could have replaced beside."""
    divergence = {"chosen": 0.8, "rejected": 1.1, "chosen_noise": 0.0}
    scores: dict[str, dict[str, LogProbs]] = {"policy": {}, "reference": {}}
    leaves: dict[str, Tensor] = {}
    for source, numbers in (("policy", POLICY), ("reference", REFERENCE)):
        for role, number in numbers.items():
            side = with_ids(tokens([[number]]), [[3]])
            kl = torch.tensor([[divergence[role]]], dtype=torch.float64)
            if source == "policy":
                leaves |= {role: side.values.requires_grad_(), f"kl {role}": kl.requires_grad_()}
            handle = Given(torch.zeros(1, 1, 2), side.mask, kl)
            scores[source][role] = replace(side, distribution=handle)  # type: ignore[arg-type]
    return scores, leaves


def test_worked_loss() -> None:
    outcome = run(CHiP(), worked()[0])
    assert near(outcome.loss, [0.534623])
    assert near(outcome.metrics["reward/margin"], [0.15]) and near(outcome.metrics["image_margin"], [0.2])
    assert near(outcome.metrics["divergence/chosen"], [0.8])
    assert near(outcome.metrics["divergence/rejected"], [1.1])


def test_worked_divergence() -> None:
    """KL of the reference's softmax([1, 0, -1]) to the policy's softmax([0.5, 0.5, -1])."""
    ids = torch.tensor([[0]])
    ours = torch.tensor([[[0.5, 0.5, -1.0]]], dtype=torch.float64)
    side = {
        "policy": from_logits(ours, ids),
        "reference": from_logits(torch.tensor([[[1.0, 0.0, -1.0]]], dtype=torch.float64), ids),
    }
    scores = {source: dict.fromkeys(POLICY, one) for source, one in side.items()}
    assert near(run(CHiP(), scores).metrics["divergence/chosen"], [0.101566])


def test_gradients() -> None:
    """d loss / d z = -beta sigmoid(-0.347); no gradient through the chosen side's divergence."""
    scores, leaves = worked()
    run(CHiP(), scores).loss.sum().backward()
    slope = 0.1 * torch.sigmoid(torch.tensor(-0.347, dtype=torch.float64)).item()
    assert leaves["chosen"].grad.item() == pytest.approx(-2 * slope, abs=1e-9)  # type: ignore[union-attr]
    assert leaves["rejected"].grad.item() == pytest.approx(slope, abs=1e-9)  # type: ignore[union-attr]
    assert leaves["chosen_noise"].grad.item() == pytest.approx(slope, abs=1e-9)  # type: ignore[union-attr]
    assert leaves["kl rejected"].grad.item() == pytest.approx(0.1 * slope, abs=1e-9)  # type: ignore[union-attr]
    assert leaves["kl chosen"].grad is None


def test_the_sum_has_every_part_in_a_sigmoid_of_its_own() -> None:
    """Margins 0.15, 0.2 and -0.1 * 0.1 * 0.3."""
    scores, leaves = worked()
    outcome = run(CHiP(combine="sum"), scores)
    third = torch.nn.functional.softplus(torch.tensor(0.003, dtype=torch.float64)).item()
    assert near(outcome.loss, [0.620957 + 0.598139 + third])
    outcome.loss.sum().backward()
    assert leaves["kl chosen"].grad is None and leaves["kl rejected"].grad.item() > 0  # type: ignore[union-attr]


@pytest.mark.parametrize(("combine", "terms"), [("joint", 1), ("sum", 3)])
def test_ln2_where_policy_and_reference_agree(combine: str, terms: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    side = from_logits(logits, torch.randint(5, (2, 3), generator=generator))
    scores = dict.fromkeys(POLICY, side)
    outcome = run(CHiP(combine=combine), {"policy": scores, "reference": scores})  # type: ignore[arg-type]
    assert near(outcome.loss, [terms * LN2] * 2, 1e-12)


def test_replaced_tokens_count_gamma_times_in_all_three_roles() -> None:
    """The last two tokens of three were replaced: log-ratios (0.1, 0.2, 0.3) become 0.1 + 4 * 0.5."""
    rows = {"chosen": [0.1, 0.2, 0.3], "rejected": [0.1, -0.4], "chosen_noise": [0.2, 0.1, 0.1]}
    ids = {"chosen": [1, 30, 40], "rejected": [1, 50], "chosen_noise": [1, 30, 40]}
    policy = {}
    for role, row in rows.items():
        side = with_ids(tokens([row], 1), [ids[role]])
        whole = Whole(torch.zeros(1, side.mask.shape[1], 2, dtype=torch.float64), side.mask)
        policy[role] = replace(side, distribution=whole)  # type: ignore[arg-type]
    reference = {role: replace(side, values=torch.zeros_like(side.values)) for role, side in policy.items()}
    outcome = run(CHiP(beta=1.0), {"policy": policy, "reference": reference})
    assert near(outcome.metrics["reward/chosen"], [2.1], 1e-12)
    assert near(outcome.metrics["reward/rejected"], [-1.5], 1e-12)
    assert near(outcome.metrics["reward/chosen_noise"], [1.0], 1e-12)
    assert near(outcome.loss, torch.nn.functional.softplus(torch.tensor([-(3.6 + 1.1)])).tolist())
    plain = run(CHiP(beta=1.0, gamma=1.0), {"policy": policy, "reference": reference})
    assert near(plain.metrics["reward/chosen"], [0.6], 1e-12)


def test_scores_without_distributions_are_refused() -> None:
    scores, _ = worked()
    bare = {role: replace(side, distribution=None) for role, side in scores["policy"].items()}
    with pytest.raises(ValueError, match="no distributions"):
        run(CHiP(), {**scores, "policy": bare})


def test_the_corruption_names_the_view() -> None:
    assert CHiP(corruption="black").views == {"chosen_black": View("chosen", "black")}
    assert CHiP().roles["policy"] == CHiP().roles["reference"] == ("chosen", "rejected", "chosen_noise")
    assert CHiP().detached == ()


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("alpha", 0.0), ("gamma", -1.0)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        CHiP(**{field: value})  # type: ignore[arg-type]
