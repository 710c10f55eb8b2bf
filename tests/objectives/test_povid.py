"""POVID's second stage: the model's own tokens under noise, worked values, and which source reads which."""

import math
from dataclasses import replace

import pytest
import torch
from fixtures import LN2, near, run, tokens
from torch import Tensor
from whole import from_logits, wider

from mmalign.objectives.dpo import DPO
from mmalign.objectives.povid import POVID
from mmalign.types import LogProbs, UserError, View

CLEAN = [[0.2, 0.1, 2.0], [1.5, 0.0, -0.5]]
NOISY = [[1.0, 0.3, 0.5], [2.0, 0.0, 0.1]]
REFERENCE = [[0.1, 0.1, 1.5], [1.2, 0.1, -0.4]]
REFERENCE_NOISY = [[0.1, 0.6, 0.2], [0.3, 0.1, 0.9]]  # its own likeliest are 1 and 2
LABELS = torch.tensor([[2, 0]])
H_CHOSEN = -0.580092 + 0.829296


def logits(rows: list[list[float]]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float64)


def worked() -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """One pair whose margin is 1.5; leaves of the policy: clean and noisy logits, the rejected side."""
    leaves = {"clean": logits(CLEAN).requires_grad_(), "noisy": logits(NOISY).requires_grad_()}
    rejected = tokens([[H_CHOSEN - 1.5, 0.0]])
    leaves["rejected"] = rejected.values.requires_grad_()
    policy = {
        "chosen": from_logits(leaves["clean"], LABELS),
        "rejected": rejected,
        "chosen_noise": from_logits(leaves["noisy"], LABELS),
    }
    reference = {
        "chosen": from_logits(logits(REFERENCE), LABELS),
        "rejected": tokens([[0.0, 0.0]]),
        "chosen_noise": from_logits(logits(REFERENCE_NOISY), LABELS),
    }
    return {"policy": policy, "reference": reference}, leaves


def logp(rows: list[list[float]], ids: tuple[int, int]) -> float:
    """Summed log-probability of two ids, by hand."""
    return sum(row[i] - math.log(sum(map(math.exp, row))) for row, i in zip(rows, ids, strict=True))


def test_worked_log_probabilities() -> None:
    assert logp(CLEAN, (2, 0)) == pytest.approx(-0.580092, abs=1e-6)
    assert logp(CLEAN, (0, 0)) == pytest.approx(-2.380092, abs=1e-6)
    assert logp(REFERENCE, (2, 0)) == pytest.approx(-0.829296, abs=1e-6)
    assert logp(REFERENCE, (0, 0)) == pytest.approx(-2.229296, abs=1e-6)


@pytest.mark.parametrize("extra", [0, 2])
def test_worked_loss(extra: int) -> None:
    scores = {s: {r: wider(side, extra) for r, side in roles.items()} for s, roles in worked()[0].items()}
    outcome = run(POVID(), scores)
    assert near(outcome.metrics["loss/own"], [0.5 * 0.673347])
    assert near(outcome.metrics["loss/pair"], [0.5 * 0.620957])
    assert near(outcome.loss, [0.647152])
    assert near(outcome.metrics["reward/own"], [0.1 * (-2.380092 + 2.229296)])


@pytest.mark.parametrize("extra", [1, 3])
def test_views_are_batched_apart_and_may_be_padded_otherwise(extra: int) -> None:
    """The looked-up ids are cut or padded to the width of the clean rows."""
    scores, _ = worked()
    for name in ("chosen", "chosen_noise"):
        changed = {**scores["policy"], name: wider(scores["policy"][name], extra)}
        assert near(run(POVID(), {**scores, "policy": changed}).loss, [0.647152])


def test_mix_weighs_the_two_terms() -> None:
    assert near(run(POVID(mix=0.25), worked()[0]).loss, [0.25 * 0.673347 + 0.75 * 0.620957])
    assert near(run(POVID(mix=1.0), worked()[0]).loss, [0.673347])


def test_gradients_pass_clean_logits_only() -> None:
    """No loss moves the noisy pass: its indices have no gradient. Where the model repeats the label nothing
    is to be learned from the own token."""
    scores, leaves = worked()
    run(POVID(mix=1.0), scores).loss.sum().backward()
    assert leaves["noisy"].grad is None
    gradient = leaves["clean"].grad
    assert gradient is not None
    # d (lp_w - lp_n) / d logits of the first place is +1 at the label, -1 at the own token; 0 at the second
    slope = -0.1 / (1 + math.exp(0.1 * (H_CHOSEN + 2.380092 - 2.229296)))
    assert near(gradient[0, 0], [-slope, 0.0, slope], 1e-6)
    assert gradient[0, 1].abs().max() < 1e-12
    assert not leaves["rejected"].grad.any()  # type: ignore[union-attr]


def test_signs_of_the_pair() -> None:
    scores, leaves = worked()
    run(POVID(mix=0.01), scores).loss.sum().backward()
    assert leaves["rejected"].grad is not None and (leaves["rejected"].grad > 0).all()
    assert leaves["clean"].grad[0, 0, 2] < 0  # type: ignore[index]


def test_the_reference_may_look_up_its_own_tokens() -> None:
    """Then h_n = -2.380092 minus the reference's log-probability of 1 and 2 under the clean picture."""
    objective = POVID(mix=1.0, reference_argmax="own")
    own = -2.380092 - logp(REFERENCE, (1, 2))
    expected = math.log1p(math.exp(-0.1 * (H_CHOSEN - own)))
    assert near(run(objective, worked()[0]).loss, [expected])
    assert objective.roles["reference"] == ("chosen", "rejected", "chosen_noise")
    assert POVID().roles["reference"] == ("chosen", "rejected")


def test_the_single_form() -> None:
    """n scored under the noisy picture by both; the noisy pass is learned from."""
    scores, leaves = worked()
    objective = POVID(form="single", mix=0.4)
    outcome = run(objective, scores)
    own = logp(NOISY, (0, 0)) - logp(REFERENCE_NOISY, (0, 0))
    z = 0.1 * (H_CHOSEN - 0.6 * (H_CHOSEN - 1.5) - 0.4 * own)
    assert near(outcome.loss, [math.log1p(math.exp(-z))])
    outcome.loss.sum().backward()
    assert leaves["noisy"].grad is not None and leaves["noisy"].grad[0, 0, 0] > 0
    assert objective.detached == () and POVID().detached == ("chosen_noise",)


@pytest.mark.parametrize("form", ["average", "single"])
def test_ln2_where_policy_and_reference_agree(form: str) -> None:
    policy = worked()[0]["policy"]
    outcome = run(POVID(form=form), {"policy": policy, "reference": policy})  # type: ignore[arg-type]
    assert near(outcome.loss, [LN2], 1e-12)


def test_the_pair_term_is_dpo() -> None:
    scores, _ = worked()
    assert near(run(POVID(), scores).metrics["loss/pair"], (0.5 * run(DPO(), scores).loss).tolist(), 1e-12)


def test_an_answer_cut_differently_under_another_picture_is_refused() -> None:
    """Only pictures of other sizes can do that; the ids tell."""
    scores, _ = worked()
    other = {**scores["policy"], "chosen_other_image": scores["policy"]["chosen_noise"]}
    objective = POVID(corruption="other_image")
    assert objective.needs - POVID().needs == {"tokens"}
    assert near(run(objective, {**scores, "policy": other}).loss, [0.647152])
    whole = other["chosen_other_image"]
    other["chosen_other_image"] = replace(whole, ids=torch.tensor([[2, -1]]))
    with pytest.raises(UserError, match=r"^objective.corruption: other_image: an answer is cut"):
        run(objective, {**scores, "policy": other})


def test_the_corruption_names_the_view() -> None:
    assert POVID(corruption="crop").views == {"chosen_crop": View("chosen", "crop")}
    assert POVID(corruption="crop").roles["policy"] == ("chosen", "rejected", "chosen_crop")


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("mix", 0.0), ("mix", 1.5)])
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        POVID(**{field: value})  # type: ignore[arg-type]
