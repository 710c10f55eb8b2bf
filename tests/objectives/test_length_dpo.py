"""Length-regularised DPO: its worked value, the sign of the length term in both branches, what it logs."""

import math

import pytest
import torch
from fixtures import LN2, agreeing, fixture_f, near, run, tokens, total_gradients
from torch import Tensor
from whole import wider

from mmalign.catalogue import lacking
from mmalign.objectives.dpo import DPO
from mmalign.objectives.length_dpo import LengthDPO
from mmalign.types import LogProbs


def pair(
    margin: float, chosen: int, rejected: int
) -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    """One pair of these lengths and this log-ratio margin, all of it in the chosen side's tokens."""
    sides = {"chosen": (margin / chosen, chosen), "rejected": (0.0, rejected)}
    scores = {
        "policy": {role: tokens([[-1.0 + each] * n]) for role, (each, n) in sides.items()},
        "reference": {role: tokens([[-1.0] * n]) for role, (_, n) in sides.items()},
    }
    leaves = {role: side.values.requires_grad_() for role, side in scores["policy"].items()}
    return scores, leaves


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_the_worked_loss() -> None:
    """Beta 0.1 times 1.5, less 0.05 for each of ten tokens that the rejected answer is longer."""
    outcome = run(LengthDPO(), pair(1.5, 20, 30)[0])
    assert near(outcome.loss, [0.883382])
    assert near(outcome.metrics["length_ratio"], [2 / 3], 1e-12)
    assert near(outcome.metrics["reward/margin"], [0.15])


def test_the_smoothed_branch_turns_both_signs() -> None:
    """z is -0.35: a flipped pair is at +0.35, not at -0.15 - 0.5."""
    loss = run(LengthDPO(label_smoothing=0.2), pair(1.5, 20, 30)[0]).loss
    assert near(loss, [0.8 * softplus(0.35) + 0.2 * softplus(-0.35)])


def test_a_longer_chosen_answer_pulls_less() -> None:
    pulls = []
    for chosen, rejected in ((30, 20), (25, 25), (20, 30)):
        scores, leaves = pair(1.5, chosen, rejected)
        run(LengthDPO(), scores).loss.sum().backward()
        assert leaves["chosen"].grad is not None and leaves["rejected"].grad is not None
        pulls.append(-leaves["chosen"].grad[0, 0].item())
        assert leaves["rejected"].grad[0, 0].item() == pytest.approx(pulls[-1], abs=1e-12)
    assert 0 < pulls[0] < pulls[1] < pulls[2]
    # beta sigmoid(-z), z = 0.65, 0.15 and -0.35
    assert pulls == pytest.approx([0.1 / (1 + math.exp(z)) for z in (0.65, 0.15, -0.35)], abs=1e-9)


def test_gradients_of_pairs_of_unlike_lengths() -> None:
    """The pairs of the fixture have 4 and 2, and 3 and 3 tokens; padding takes no gradient."""
    z = [0.1 * 0.8 + 0.05 * 2, 0.1 * -0.7]
    expected = [0.1 / (1 + math.exp(one)) for one in z]
    assert total_gradients(LengthDPO(), "chosen") == pytest.approx([-one for one in expected], abs=1e-7)
    assert total_gradients(LengthDPO(), "rejected") == pytest.approx(expected, abs=1e-7)


def test_equal_lengths_are_dpo() -> None:
    scores = pair(1.5, 25, 25)[0]
    smoothed = LengthDPO(label_smoothing=0.1)
    assert near(run(smoothed, scores).loss, run(DPO(label_smoothing=0.1), scores).loss.tolist(), 1e-12)
    assert near(run(LengthDPO(), agreeing(scores)).loss, [LN2], 1e-12)


def test_at_the_start_only_the_lengths_are_left() -> None:
    loss = run(LengthDPO(), agreeing(fixture_f())).loss
    assert near(loss, [softplus(-0.1), LN2])


def test_padding_is_no_length() -> None:
    scores = fixture_f()
    padded = {s: {r: wider(side, 5) for r, side in roles.items()} for s, roles in scores.items()}
    one, other = run(LengthDPO(), scores), run(LengthDPO(), padded)
    assert torch.equal(one.loss, other.loss)
    assert torch.equal(one.metrics["length_ratio"], other.metrics["length_ratio"])


def test_a_denoiser_has_no_lengths() -> None:
    from mmalign.adapters.diffusion import Diffusion

    assert lacking(LengthDPO().needs, Diffusion.offers) == ["units"]


@pytest.mark.parametrize(
    ("field", "value"), [("beta", 0.0), ("alpha", 0.0), ("alpha", -0.05), ("label_smoothing", 0.5)]
)
def test_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        LengthDPO(**{field: value})
