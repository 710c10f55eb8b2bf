"""Region masks: the worked error, betas that keep their size, and gradients inside the region only."""

from typing import Any

import pytest
import torch
from fixtures import ALL_MEAN, LN2, agreeing, fixture_f1, near, predicted, run
from torch import Tensor

from mmalign.objectives._transforms.region_mask import RegionMask
from mmalign.objectives._transforms.sdpo import SDPO
from mmalign.objectives.dpo import DPO
from mmalign.types import LogProbs, Scores, UserError

SQUARES = torch.tensor([[0.1, 0.3], [0.2, 0.4]], dtype=torch.float64)
LOWER_AND_LEFT = [[1, 0], [1, 1]]


def one(squares: Tensor, weight: float = 1.0) -> LogProbs:
    """One response with these squared differences [h, w], in three channels."""
    prediction = squares.sqrt().expand(1, 1, 3, *squares.shape)
    return predicted(prediction, torch.zeros_like(prediction), weight)


def changed(scores: Scores, *masks: Any) -> Scores:
    return RegionMask()(scores, {"mask": list(masks)}, ALL_MEAN).scores


def test_worked_error() -> None:
    side = changed({"policy": {"chosen": one(SQUARES)}}, LOWER_AND_LEFT)["policy"]["chosen"]
    assert near(side.mean_error(), [0.2333333], 1e-7)
    assert near(side.total(), [-0.2333333 / 2], 1e-7)


def test_a_uniform_mask_changes_nothing() -> None:
    side = one(SQUARES)
    for level in (1, 0.25):
        same = changed({"policy": {"chosen": side}}, [[level]])["policy"]["chosen"]
        assert near(same.values[0], side.values[0].tolist(), 1e-7)
        assert near(same.mean_error(), [0.25], 1e-7)


def test_timestep_weights_stay() -> None:
    side = changed({"policy": {"chosen": one(SQUARES, 3.0)}}, LOWER_AND_LEFT)["policy"]["chosen"]
    assert near(side.total(), [-3 * 0.2333333 / 2], 1e-6) and near(side.mean_error(), [0.2333333], 1e-7)


def test_masks_are_brought_to_the_size_of_the_latents() -> None:
    fine = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert near(changed({"p": {"c": one(SQUARES)}}, fine)["p"]["c"].mean_error(), [0.2333333], 1e-7)
    half = [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]  # means 1, 1, 1/4, 0 of the four cells
    expected = (0.1 + 0.3 + 0.2 / 4) / (1 + 1 + 1 / 4)
    assert near(changed({"p": {"c": one(SQUARES)}}, half)["p"]["c"].mean_error(), [expected], 1e-7)
    line = [[0, 1]]  # a single line of the picture: the right half
    assert near(changed({"p": {"c": one(SQUARES)}}, line)["p"]["c"].mean_error(), [0.35], 1e-7)


def test_clips_have_one_mask_for_all_frames() -> None:
    frames = torch.stack([SQUARES, 2 * SQUARES]).sqrt().expand(1, 1, 3, 2, 2, 2)
    side = predicted(frames, torch.zeros_like(frames))
    masked = changed({"p": {"c": side}}, LOWER_AND_LEFT)["p"]["c"]
    assert near(masked.mean_error(), [1.5 * 0.2333333], 1e-6)


def pair() -> tuple[dict[str, dict[str, LogProbs]], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)  # two draws
    made = {
        source: {
            role: target + 0.4 * torch.randn(target.shape, generator=generator, dtype=torch.float64)
            for role in ("chosen", "rejected")
        }
        for source in ("policy", "reference")
    }
    leaves = {role: leaf.requires_grad_() for role, leaf in made["policy"].items()}
    return {s: {r: predicted(p, target) for r, p in roles.items()} for s, roles in made.items()}, leaves


TOP, RIGHT = [[1, 1], [0, 0]], [[0, 1], [0, 1]]


def test_nothing_outside_the_region_is_learned() -> None:
    scores, leaves = pair()
    masked = changed(scores, TOP, RIGHT)
    run(DPO(beta=20.0), masked).loss.sum().backward()
    for leaf in leaves.values():
        assert not leaf.grad[0, ..., 2:, :].any() and leaf.grad[0, ..., :2, :].all()
        assert not leaf.grad[1, ..., :2].any() and leaf.grad[1, ..., 2:].all()
    for roles in masked.values():
        for side in roles.values():
            assert side.error is not None and torch.allclose(side.values, -side.error / 2)


def test_log_ratios_are_zero_where_policy_and_reference_agree() -> None:
    scores, _ = pair()
    masked = changed(agreeing(scores), TOP, RIGHT)
    assert near(run(DPO(beta=2000.0), masked).loss, [LN2, LN2], 1e-12)


def test_a_safeguard_after_it_looks_at_the_region() -> None:
    scores, _ = pair()
    masked = SDPO()(changed(scores, TOP, TOP), {}, ALL_MEAN).metrics["loser_scale"]
    cut = {
        source: {
            role: predicted(side.prediction[..., :2, :], side.target[..., :2, :])
            for role, side in roles.items()
        }
        for source, roles in scores.items()
    }
    assert near(masked, SDPO()(cut, {}, ALL_MEAN).metrics["loser_scale"].tolist(), 1e-6)


def test_a_prediction_without_any_error_stays_finite() -> None:
    zero = torch.zeros(1, 1, 3, 2, 2, requires_grad=True)
    side = predicted(zero, torch.zeros_like(zero))
    masked = changed({"p": {"c": side}}, LOWER_AND_LEFT)["p"]["c"]
    masked.total().sum().backward()
    assert masked.values.tolist() == [[0.0]] and zero.grad is not None and not zero.grad.any()


@pytest.mark.parametrize(
    ("mask", "rule"),
    [
        ([[0, 0]], "not only 0"),
        ([[1, -1]], "0 or more"),
        ([[1, float("nan")]], "0 or more"),
        ([1, 0], "lines of numbers"),
        ([[1], [0, 1]], "equally many numbers"),
        ("left", "equally many numbers"),
        ([], "lines of numbers"),
    ],
)
def test_masks_that_cannot_be_used(mask: Any, rule: str) -> None:
    with pytest.raises(UserError, match=rf"^mask: sample 1 of the batch .*{rule}"):
        changed(pair()[0], TOP, mask)


def test_scores_without_predictions_are_an_error() -> None:
    assert RegionMask().needs == {"prediction"} and RegionMask().fields == ("mask",)
    with pytest.raises(ValueError, match="^region_mask: these scores carry no predictions"):
        changed(fixture_f1()[0], TOP, RIGHT)
