"""SFT: three reductions over tokens, and the weighted error of a diffusion model."""

import pytest
import torch
from fixtures import fixture_f, fixture_f1, from_ratios, near, run, surrogate, total_gradients
from torch import Tensor

from mmalign.objectives.sft import SFT


def test_mean_per_response_and_mean_over_all_tokens_differ() -> None:
    assert run(SFT(), fixture_f()).loss.mean().item() == pytest.approx(0.875, abs=2e-6)
    tokens = run(SFT("token_mean"), fixture_f()).loss
    assert tokens.mean().item() == pytest.approx(0.857143, abs=2e-6)
    assert near(run(SFT("sum"), fixture_f()).loss, [3.0, 3.0])


def test_a_critique_is_learned_in_place_of_the_chosen_answer() -> None:
    objective, scores = SFT(role="rejected_critique"), fixture_f()
    assert objective.roles == {"policy": ("rejected_critique",)} and SFT().roles == {"policy": ("chosen",)}
    policy = scores["policy"]
    criticised = {"policy": {"chosen": policy["chosen"], "rejected_critique": policy["rejected"]}}
    assert near(run(objective, criticised).loss, [1.05, 1.9 / 3])


def test_only_the_token_mean_couples_the_batch() -> None:
    assert SFT("token_mean").batch_coupled
    assert not SFT("mean").batch_coupled and not SFT("sum").batch_coupled


def test_the_token_count_is_that_of_all_processes() -> None:
    def elsewhere(values: Tensor, where: Tensor | None = None) -> Tensor:
        return torch.cat([values, values + 2]).mean()  # mean length 4.5 over both processes, 3.5 here

    loss = SFT("token_mean")(fixture_f(), {}, {}, elsewhere).loss
    assert near(loss, [3 / 4.5, 3 / 4.5], 1e-12)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", [-1.0, -1.0]), ("mean", [-1 / 4, -1 / 3]), ("token_mean", [-2 / 7, -2 / 7])],
)
def test_gradient_raises_every_token(reduction: str, expected: list[float]) -> None:
    assert total_gradients(SFT(reduction), "chosen") == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]


def test_denoising_error() -> None:
    scores, errors = fixture_f1()
    for reduction in ("mean", "sum", "token_mean"):
        assert near(run(SFT(reduction), scores).loss, [0.1, 0.2], 1e-12)  # type: ignore[arg-type]
    run(SFT(), scores).loss.sum().backward()
    assert near(errors["chosen"].grad, [1.0, 1.0], 1e-12)


def test_min_snr_weights_reach_the_loss() -> None:
    """Weights [1, 1, 0.25] of SNR 0.2, 5 and 20 at gamma 5 on errors 0.1, 0.2 and 0.3."""
    e = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    scores = {"policy": {"chosen": surrogate(e, torch.tensor([1.0, 1.0, 0.25], dtype=torch.float64))}}
    assert run(SFT(), scores).loss.mean().item() == pytest.approx(0.125, abs=1e-12)


def test_extreme_likelihoods_stay_finite() -> None:
    scores, leaves = from_ratios(chosen=torch.tensor([-1e4, 1e4]))
    loss = run(SFT(), scores).loss
    loss.sum().backward()
    assert loss.tolist() == [1e4, -1e4] and torch.isfinite(leaves["chosen"].grad).all()


def test_float32_and_bfloat16_agree_with_float64() -> None:
    exact = run(SFT("token_mean"), fixture_f()).loss
    assert near(run(SFT("token_mean"), fixture_f(dtype=torch.float32)).loss, exact.tolist(), 1e-6)
    assert near(run(SFT("token_mean"), fixture_f(dtype=torch.bfloat16)).loss, exact.tolist(), 0.02)
