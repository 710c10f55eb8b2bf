"""Weighted sums: one forward for all terms, unions of what they ask for, and state kept apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from fixtures import fixture_f, near, run, tokens

from mmalign.objectives._sum import WeightedSum
from mmalign.objectives.dpo import DPO
from mmalign.objectives.draft import DRaFT
from mmalign.objectives.ipo import IPO
from mmalign.objectives.kto import KTO
from mmalign.objectives.mapo import MaPO
from mmalign.objectives.sft import SFT
from mmalign.types import AllMean, Objective, Outcome, Scores, State, UserError, View


@dataclass(frozen=True)
class Counting(Objective):
    """Adds up how often it was called; makes its own role from another."""

    change: str = "cropped"

    roles = {"policy": ("chosen", "spare")}
    detached = ("spare",)

    @property
    def views(self) -> Mapping[str, View]:
        return {"spare": View("chosen", self.change)}

    def initial_state(self) -> State:
        return {"calls": torch.zeros(())}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        calls = state["calls"] + 1
        loss = scores["policy"]["chosen"].total() * 0 + calls
        return Outcome(loss, {"calls": loss.detach()}, {"calls": calls})


def test_worked_sum_with_a_supervised_anchor() -> None:
    """DPO plus one times the mean negative log-likelihood of the chosen response."""
    anchored = WeightedSum((("dpo", 1.0, DPO()), ("sft", 1.0, SFT())))
    assert near(run(anchored, fixture_f()).loss, [1.403947, 1.728760])
    coupled = WeightedSum((("dpo", 1.0, DPO()), ("sft", 0.5, SFT("token_mean"))))
    assert run(coupled, fixture_f()).loss.mean().item() == pytest.approx(0.691353 + 0.5 * 0.857143, abs=2e-6)


@pytest.mark.parametrize("extra", [0, 3])
def test_worked_loss_of_mia_dpo(extra: int) -> None:
    """A tenth of the mean over all tokens of the batch, 5 / 4, beside DPO at a margin of 1.5."""
    chosen = tokens([[-0.5, -1.0, -1.5], [-2.0]], extra)
    rejected, before = tokens([[-2.5], [-2.5]], extra), tokens([[-1.0], [-1.0]], extra)
    scores = {
        "policy": {"chosen": chosen, "rejected": rejected},
        "reference": {"chosen": chosen, "rejected": before},
    }
    anchored = WeightedSum((("dpo", 1.0, DPO()), ("sft", 0.1, SFT("token_mean"))))
    assert run(anchored, scores).loss.mean().item() == pytest.approx(0.745957, abs=1e-6)
    apart = WeightedSum((("dpo", 1.0, DPO()), ("sft", 0.1, SFT("sum"))))
    assert run(apart, scores).loss.mean().item() == pytest.approx(0.620957 + 0.25, abs=1e-6)


def test_the_sum_that_tpo_mia_dpo_and_llava_hound_train_on() -> None:
    """Two pairs with a log-ratio margin of 1.5 and chosen answers of three and one tokens: the supervised
    term is 5 / 4, the mean over all four, and not 2.5, the mean over answers of their sums."""
    scores = {
        "policy": {"chosen": tokens([[-0.5, -1.0, -1.5], [-2.0]]), "rejected": tokens([[-15.0], [-15.0]])},
        "reference": {"chosen": tokens([[-1.5, -1.0, -1.5], [-3.0]]), "rejected": tokens([[-14.5], [-14.5]])},
    }

    def total(reduction: Literal["token_mean", "sum"], weight: float) -> float:
        terms = WeightedSum((("dpo", 1.0, DPO()), ("sft", weight, SFT(reduction))))
        return run(terms, scores).loss.mean().item()

    assert total("token_mean", 0.1) == pytest.approx(0.745957, abs=1e-6)
    assert total("token_mean", 0.0) == pytest.approx(0.620957, abs=1e-6)
    assert total("sum", 0.1) == pytest.approx(0.620957 + 0.25, abs=1e-6)


def test_gradients_are_the_weighted_sum_of_the_terms() -> None:
    gradients = []
    for objective in (WeightedSum((("dpo", 2.0, DPO()), ("ipo", 0.25, IPO()))), DPO(), IPO()):
        scores = fixture_f()
        run(objective, scores).loss.sum().backward()
        gradients.append(scores["policy"]["chosen"].values.grad)
    both, dpo, ipo = gradients
    assert torch.allclose(both, 2 * dpo + 0.25 * ipo, atol=1e-12)


def test_metrics_carry_the_label_of_their_term() -> None:
    outcome = run(WeightedSum((("dpo", 3.0, DPO()), ("sft", 0.5, SFT()))), fixture_f())
    assert near(outcome.metrics["dpo/loss"], [0.653947, 0.728760])  # before its weight
    assert outcome.metrics["accuracy"].tolist() == [1.0, 0.0]
    assert near(outcome.metrics["nll"], [0.75, 1.0])
    assert all(not value.requires_grad for value in outcome.metrics.values())


def test_two_terms_of_one_kind_stay_apart() -> None:
    outcome = run(WeightedSum((("dpo0", 1.0, DPO()), ("dpo1", 1.0, DPO(beta=0.2)))), fixture_f())
    assert near(outcome.metrics["dpo1/reward/margin"], (2 * outcome.metrics["dpo0/reward/margin"]).tolist())


def test_unions() -> None:
    total = WeightedSum(
        (("sft", 1.0, SFT()), ("mapo", 1.0, MaPO()), ("kto", 1.0, KTO()), ("dpo", 1.0, DPO(margin=1)))
    )
    assert total.roles == {
        "policy": ("chosen", "rejected", "completion", "mismatched"),
        "reference": ("completion", "mismatched", "chosen", "rejected"),
    }
    assert total.needs == {"ratio", "error"}
    assert total.fields == ("binary", "margin")
    assert total.detached == ("mismatched",)
    assert set(total.views) == {"mismatched"}
    assert total.batch_coupled
    assert not WeightedSum((("sft", 1.0, SFT()), ("dpo", 1.0, DPO()))).batch_coupled


def test_a_role_is_detached_only_if_no_term_differentiates_it() -> None:
    @dataclass(frozen=True)
    class Uses(SFT):
        """Differentiates the role that Counting does not."""

        roles = {"policy": ("spare",)}

    assert WeightedSum((("a", 1.0, Counting()),)).detached == ("spare",)
    assert WeightedSum((("a", 1.0, Counting()), ("b", 1.0, Uses()))).detached == ()


def test_terms_on_rewards_share_what_is_sampled() -> None:
    one = DRaFT(last=2)
    assert WeightedSum((("draft0", 1.0, one), ("draft1", 2.0, DRaFT(last=2)))).rollout == one.rollout
    for other in (DRaFT(last=1), SFT()):
        with pytest.raises(UserError, match="terms on rewards must sample alike, and none may be on data"):
            WeightedSum((("draft", 1.0, one), ("other", 1.0, other)))


def test_states_are_carried_per_term() -> None:
    total = WeightedSum((("a", 1.0, Counting()), ("b", 10.0, Counting()), ("dpo", 1.0, DPO())))
    state = total.initial_state()
    assert set(state) == {"a/calls", "b/calls"}
    state["b/calls"] += 4
    first = total(fixture_f(), {}, state, lambda values, where=None: values.mean())
    assert first.state["a/calls"] == 1 and first.state["b/calls"] == 5
    second = total(fixture_f(), {}, first.state, lambda values, where=None: values.mean())
    assert second.state["a/calls"] == 2 and second.state["b/calls"] == 6
    assert near(second.metrics["a/calls"], [2.0, 2.0])


def test_one_role_cannot_mean_two_things() -> None:
    WeightedSum((("a", 1.0, Counting()), ("b", 1.0, Counting())))
    with pytest.raises(UserError, match="role spare by cropped of chosen, another term by blurred"):
        WeightedSum((("a", 1.0, Counting()), ("b", 1.0, Counting("blurred"))))
