"""Bradley-Terry on scores: worked numbers, ties, margins, centring."""

import pytest
import torch
from fixtures import LN2, near, reward, run
from torch import Tensor

from mmalign.objectives.bt import BradleyTerry
from mmalign.types import LogProbs

# two pairs; losses 0.371101 and 0.798139, because the differences are 0.8 and -0.2
CHOSEN, REJECTED = [1.2, 0.3], [0.4, 0.5]
Scores = dict[str, dict[str, LogProbs]]


def scored(chosen: list[float], rejected: list[float]) -> tuple[Scores, dict[str, Tensor]]:
    """Scores of a pair of roles and the leaves they come from."""
    leaves = {
        "chosen": torch.tensor(chosen, dtype=torch.float64, requires_grad=True),
        "rejected": torch.tensor(rejected, dtype=torch.float64, requires_grad=True),
    }
    return {"policy": {role: reward(leaf) for role, leaf in leaves.items()}}, leaves


def label(name: str, *values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(values, dtype=torch.float64)}


def test_worked_losses() -> None:
    loss = run(BradleyTerry(), scored(CHOSEN, REJECTED)[0]).loss
    assert near(loss, [0.371101, 0.798139])
    assert loss.mean().item() == pytest.approx(0.584620, abs=2e-6)


def test_a_margin_is_subtracted() -> None:
    objective = BradleyTerry(margin="label")
    loss = run(objective, scored([1.2, 1.2], [0.4, 0.4])[0], label("margin", 1.0, 0.0)).loss
    assert near(loss, [0.798139, 0.371101])


def test_centring_adds_the_squared_sum() -> None:
    plain = run(BradleyTerry(), scored(CHOSEN, REJECTED)[0]).loss
    centred = run(BradleyTerry(centre=0.01), scored(CHOSEN, REJECTED)[0]).loss
    assert near(centred[:1], [0.396701])
    assert (centred - plain).mean().item() == pytest.approx(0.016, abs=1e-9)


def test_centring_sees_the_level_that_the_rest_does_not() -> None:
    low, high = scored(CHOSEN, REJECTED)[0], scored([11.2, 10.3], [10.4, 10.5])[0]
    assert near(run(BradleyTerry(), low).loss, run(BradleyTerry(), high).loss.tolist(), 1e-12)
    assert bool((run(BradleyTerry(centre=0.01), high).loss > run(BradleyTerry(centre=0.01), low).loss).all())


def test_a_tie_draws_the_scores_together_from_both_sides() -> None:
    objective = BradleyTerry(ties="label")
    scores, leaves = scored([0.8, -0.8, 0.0, 0.8], [0.0, 0.0, 0.0, 0.0])
    outcome = run(objective, scores, label("tie", 1, 1, 1, 0))
    # the mean of 0.371101 and 1.171101, which are the losses of a difference of 0.8 and of -0.8
    assert near(outcome.loss, [0.771101, 0.771101, LN2, 0.371101])
    outcome.loss.sum().backward()
    gradient = leaves["chosen"].grad
    assert gradient is not None
    assert gradient[0] > 0 > gradient[1] and abs(float(gradient[2])) < 1e-12 and gradient[3] < 0
    assert outcome.metrics["accuracy"].isnan().tolist() == [True, True, True, False]


def test_a_margin_does_not_count_for_a_tie() -> None:
    objective = BradleyTerry(ties="label", margin="label")
    labels = label("tie", 1, 0) | label("margin", 5.0, 1.0)
    loss = run(objective, scored([0.8, 0.8], [0.0, 0.0])[0], labels).loss
    assert near(loss, [0.771101, 0.798139])


def test_gradient_raises_chosen_and_lowers_rejected() -> None:
    scores, leaves = scored([0.0, 0.0], [0.0, 0.0])
    outcome = run(BradleyTerry(), scores)
    outcome.loss.sum().backward()
    assert near(outcome.loss, [LN2, LN2], 1e-12)
    assert near(leaves["chosen"].grad, [-0.5, -0.5], 1e-12)  # type: ignore[arg-type]
    assert near(leaves["rejected"].grad, [0.5, 0.5], 1e-12)  # type: ignore[arg-type]


def test_limits() -> None:
    scores, leaves = scored([1e4, -1e4], [-1e4, 1e4])
    loss = run(BradleyTerry(), scores).loss
    loss.sum().backward()
    assert near(loss, [0.0, 2e4], 1e-6)
    assert near(leaves["chosen"].grad, [0.0, -1.0], 1e-12)  # type: ignore[arg-type]


def test_metrics() -> None:
    metrics = run(BradleyTerry(), scored([1.2, 0.3, 0.5], [0.4, 0.5, 0.5])[0]).metrics
    assert near(metrics["reward/margin"], [0.8, -0.2, 0.0])
    assert near(metrics["reward/mean"], [0.8, 0.4, 0.5])
    assert metrics["accuracy"].tolist() == [1.0, 0.0, 0.0]
    assert metrics["implicit_acc"].tolist() == [1.0, 0.0, 0.5]
    assert near(metrics["brier"][2:], [0.25])
    # sigmoid(0.8) = exp(-0.371101) = 0.689974: one minus it, squared
    assert near(metrics["brier"][:1], [0.096116], 1e-6)


def test_labels_are_asked_for_only_where_they_are_read() -> None:
    assert BradleyTerry().fields == ()
    assert BradleyTerry(margin="label").fields == ("margin",)
    assert BradleyTerry(ties="label", margin="label").fields == ("margin", "tie")


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"centre: must be 0 or more, got -1"):
        BradleyTerry(centre=-1)
