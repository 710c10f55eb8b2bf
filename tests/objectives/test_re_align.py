"""Re-Align's loss on a retrieved picture: worked values, gradients, and the released code's competitors."""

import pytest
import torch
from fixtures import LN2, exact, fixture_f, near, run
from torch import Tensor
from whole import from_logits, wider

from mmalign.objectives.dpo import DPO
from mmalign.objectives.re_align import ReAlign, competing
from mmalign.types import LogProbs

POLICY = {"chosen": -12.0, "rejected": -15.0, "chosen_retrieved": -18.0}
REFERENCE = {"chosen": -13.0, "rejected": -14.5, "chosen_retrieved": -17.0}
LOGITS = [[0.2, 0.1, 2.0], [1.5, 0.0, -0.5]]


def worked() -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """One pair with its retrieved picture; the policy's likelihoods are leaves."""
    leaves = {r: torch.tensor([[v]], dtype=torch.float64, requires_grad=True) for r, v in POLICY.items()}
    reference = {r: exact(torch.tensor([[v]], dtype=torch.float64)) for r, v in REFERENCE.items()}
    return {"policy": {r: exact(leaf) for r, leaf in leaves.items()}, "reference": reference}, leaves


def test_worked_loss() -> None:
    outcome = run(ReAlign(), worked()[0])
    assert near(outcome.loss, [1.219096])
    assert near(outcome.metrics["loss/pair"], [0.620957])
    assert near(outcome.metrics["loss/image"], [0.598139])
    assert near(outcome.metrics["reward/chosen_retrieved"], [-0.1])


def test_gradients_of_all_three_roles() -> None:
    """beta sigmoid(-0.15) and beta sigmoid(-0.2)."""
    scores, leaves = worked()
    run(ReAlign(image_weight=2.0), scores).loss.sum().backward()
    pair, image = 0.0462570, 2 * 0.0450166
    assert near(leaves["chosen"].grad[0], [-pair - image], 1e-6)  # type: ignore[index]
    assert near(leaves["rejected"].grad[0], [pair], 1e-6)  # type: ignore[index]
    assert near(leaves["chosen_retrieved"].grad[0], [image], 1e-6)  # type: ignore[index]


def test_the_pair_term_is_dpo() -> None:
    pair = fixture_f()
    scores = {s: {**roles, "chosen_retrieved": roles["chosen"]} for s, roles in pair.items()}
    assert torch.equal(run(ReAlign(), scores).metrics["loss/pair"], run(DPO(), pair).loss)
    assert near(run(ReAlign(), scores).metrics["loss/image"], [LN2, LN2], 1e-12)


@pytest.mark.parametrize("variant", ["paper", "top_competitor"])
def test_two_ln2_where_policy_and_reference_agree(variant: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    side = from_logits(logits, torch.randint(5, (2, 3), generator=generator))
    scores = dict.fromkeys(POLICY, side)
    outcome = run(ReAlign(variant=variant), {"policy": scores, "reference": scores})  # type: ignore[arg-type]
    assert near(outcome.loss, [2 * LN2] * 2, 1e-12)


# ---------------------------------------------------------------- the released code's variant


@pytest.mark.parametrize("extra", [0, 2])
def test_worked_competitors(extra: int) -> None:
    """Labels 2 and 1: the first is the likeliest, so the second likeliest, 0, stands in; so does 0 for 1."""
    logits = torch.tensor([LOGITS], dtype=torch.float64)
    side = wider(from_logits(logits, torch.tensor([[2, 1]])), extra)
    assert near(side.total(), [-2.080092])
    assert near(competing(side).total(), [-2.380092])
    assert torch.equal(competing(side).mask, side.mask)


def test_competitors_stand_in_for_the_rejected_and_the_retrieved_side_only() -> None:
    """Each source looks up its own: the reference's competitors are 1 and 2, log-probabilities by hand."""
    logits = torch.tensor([LOGITS], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([[[0.1, 0.6, 2.0], [0.3, 1.1, 0.9]]], dtype=torch.float64)
    labels = torch.tensor([[2, 1]])
    policy, reference = from_logits(logits, labels), from_logits(other, labels)
    scores = {"policy": dict.fromkeys(POLICY, policy), "reference": dict.fromkeys(POLICY, reference)}
    metrics = run(ReAlign(beta=1.0, variant="top_competitor"), scores).metrics
    logp = torch.log_softmax(other[0], -1)
    own = float(logp[0, 1] + logp[1, 2])
    assert near(metrics["reward/rejected"], [-2.380092 - own])
    assert near(metrics["reward/chosen_retrieved"], [-2.380092 - own])
    assert near(metrics["reward/chosen"], [-2.080092 - float(logp[0, 2] + logp[1, 1])])
    run(ReAlign(variant="top_competitor"), scores).loss.sum().backward()
    assert logits.grad is not None and logits.grad[0, 0, 2] < 0 < logits.grad[0, 0, 0]


def test_competitors_need_distributions() -> None:
    assert ReAlign().needs == {"ratio", "units"}
    assert ReAlign(variant="top_competitor").needs == {"ratio", "units", "tokens", "distribution"}
    with pytest.raises(ValueError, match="no distributions"):
        run(ReAlign(variant="top_competitor"), worked()[0])


def test_the_data_give_the_third_role() -> None:
    assert ReAlign().views == {} and ReAlign().detached == ()
    assert ReAlign().roles["policy"] == ReAlign().roles["reference"] == tuple(POLICY)


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("image_weight", 0.0)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        ReAlign(**{field: value})
