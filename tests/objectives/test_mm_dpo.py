"""MM-DPO: worked losses over a reward model's margins, the bounds of beta, where the margin is from."""

import math
from typing import Any

import pytest
import torch
from fixtures import LN2, agreeing, exact, fixture_f, fixture_f1, from_ratios, near, run

from mmalign.objectives._sum import WeightedSum
from mmalign.objectives.dpo import DPO
from mmalign.objectives.mm_dpo import MMDPO
from mmalign.objectives.sft import SFT
from mmalign.types import LogProbs

# delta, beta of it, loss of a log-ratio margin of 1.5
WORKED = [
    (0.0, 0.1, 0.620957),
    (0.5, 0.111060, 0.613317),
    (1.0, 0.119673, 0.607415),
    (2.0, 0.131606, 0.599306),
    (10.0, 0.149663, 0.587186),
]


def margins(count: int = len(WORKED), dtype: torch.dtype = torch.float64) -> dict[str, dict[str, LogProbs]]:
    """Pairs whose answers' log-ratios are 1 and -0.5."""

    def side(value: float) -> LogProbs:
        return exact(torch.full((count, 1), value, dtype=dtype))

    return {
        "policy": {"chosen": side(-12.0), "rejected": side(-15.0)},
        "reference": {"chosen": side(-13.0), "rejected": side(-14.5)},
    }


def gaps(*values: float, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    return {"margin": torch.tensor(values, dtype=dtype)}


def test_worked_losses() -> None:
    deltas, betas, losses = zip(*WORKED, strict=True)
    outcome = run(MMDPO(), margins(), gaps(*deltas))
    assert near(outcome.loss, losses) and near(outcome.metrics["beta"], betas)
    assert near(outcome.metrics["reward/margin"], [1.5 * beta for beta in betas], 3e-6)


def test_scores_of_the_answers_are_read_instead() -> None:
    labels = {
        "chosen.score": torch.tensor([3.0, 0.25]),
        "rejected.score": torch.tensor([1.0, -0.25]),
        "margin": torch.tensor([100.0, 100.0]),
    }
    assert near(run(MMDPO(gap="scores"), margins(2), labels).loss, [0.599306, 0.613317])
    assert MMDPO().fields == ("margin",) and MMDPO(gap="scores").fields == ("score",)


def test_beta_stays_in_its_bounds() -> None:
    """A reward model that is against the pair, however much, leaves beta; one far for it gives 1 + w."""
    beta = run(MMDPO(0.2, w=0.5), margins(4), gaps(-1e6, -0.1, 1e6, torch.inf)).metrics["beta"]
    assert beta.tolist() == pytest.approx([0.2, 0.2, 0.3, 0.3], abs=1e-12)


def test_a_clear_pair_pulls_harder_at_the_start() -> None:
    scores, leaves = from_ratios(chosen=torch.zeros(2), rejected=torch.zeros(2))
    loss = run(MMDPO(), scores, gaps(0.0, 2.0, dtype=torch.float32)).loss
    loss.sum().backward()
    assert near(loss, [LN2, LN2], 1e-6)
    assert leaves["chosen"].grad is not None and leaves["rejected"].grad is not None
    assert near(leaves["chosen"].grad[:, 0], [-0.05, -0.065803], 1e-6)
    assert near(leaves["rejected"].grad[:, 0], [0.05, 0.065803], 1e-6)


def test_beta_has_no_gradient() -> None:
    delta = torch.tensor([2.0], requires_grad=True)
    scores, _ = from_ratios(chosen=torch.ones(1), rejected=torch.zeros(1))
    run(MMDPO(), scores, {"margin": delta}).loss.sum().backward()
    assert delta.grad is None


def test_without_a_gap_it_is_dpo() -> None:
    zero = gaps(0.0, 0.0)
    for objective, plain, scores in (
        (MMDPO(), DPO(), fixture_f()),
        (MMDPO(500.0), DPO(500.0), fixture_f1()[0]),
    ):
        assert near(run(objective, scores, zero).loss, run(plain, scores).loss.tolist(), 1e-12)
        assert near(run(objective, agreeing(scores), gaps(1.0, 3.0)).loss, [LN2, LN2], 1e-12)


def test_the_papers_sum_with_its_supervised_term() -> None:
    """Weight 0.25, on the mean of all tokens of the step: 7 tokens of 6 nats in all."""
    scores = fixture_f()
    both = WeightedSum((("mm_dpo", 1.0, MMDPO()), ("sft", 0.25, SFT("token_mean"))))
    loss = run(both, scores, gaps(2.0, 0.0)).loss
    total = -(scores["policy"]["chosen"].values * scores["policy"]["chosen"].mask).sum().item()
    beta = 0.1 * (1 + 0.5 * (1 - math.exp(-1)))
    pair = [math.log1p(math.exp(-beta * 0.8)), math.log1p(math.exp(0.1 * 0.7))]
    assert total == pytest.approx(6.0, abs=1e-12)
    assert loss.mean().item() == pytest.approx(sum(pair) / 2 + 0.25 * total / 7, abs=1e-9)


@pytest.mark.parametrize(("field", "value"), [("beta", 0.0), ("w", 0.0), ("k", 0.0), ("k", -1.0)])
def test_ranges(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: .*got {value}"):
        MMDPO(**{field: value})


def test_half_precision_agrees() -> None:
    wide = run(MMDPO(), margins(1), gaps(2.0)).loss
    narrow = run(MMDPO(), margins(1, torch.bfloat16), gaps(2.0, dtype=torch.float32)).loss
    assert near(narrow, wide.tolist(), 0.01)
