"""Log-likelihoods of responses: how units become a number per response, ratios and selections."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from mmalign import likelihoods, types
from mmalign.likelihoods import LogProbs

NAN = float("nan")


def make(values: Tensor, mask: Tensor | None = None, unit: str = "token", **more: Tensor) -> LogProbs:
    """Scores [N, K]; draws are a surrogate's, tokens and steps have true likelihoods."""
    kind = {"token": "exact", "draw": "surrogate", "step": "trajectory"}[unit]
    rows = torch.arange(len(values))
    kept = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    return LogProbs(values, kept, kind, unit, rows, rows * 0, **more)  # type: ignore[arg-type]


def ragged(*counts: int, width: int) -> Tensor:
    """A mask whose row i keeps its first counts[i] units."""
    return torch.arange(width)[None] < torch.tensor(counts)[:, None]


# ---------------------------------------------------------------- reductions


def test_tokens_are_summed_draws_averaged_steps_weighted() -> None:
    values = torch.tensor([[-1.0, -2.0, NAN], [-4.0, NAN, NAN]])
    mask = ragged(2, 1, width=3)
    assert make(values, mask).total().tolist() == [-3.0, -4.0]
    assert make(values, mask, "draw").total().tolist() == [-1.5, -4.0]
    assert make(values, mask, "step").total().tolist() == [-3.0, -4.0]
    weights = torch.tensor([[0.5, 2.0, 9.0], [3.0, 9.0, 9.0]])
    assert make(values, mask, "step", weights=weights).total().tolist() == [-4.5, -12.0]


def test_lengths_and_means() -> None:
    values = torch.tensor([[-1.0, -2.0, NAN], [-4.0, NAN, NAN]])
    mask = ragged(2, 1, width=3)
    assert make(values, mask).length.tolist() == [2.0, 1.0]
    assert make(values, mask, "step").length.tolist() == [2.0, 1.0]
    assert make(values, mask, "draw").length.tolist() == [1.0, 1.0]  # its error is a mean already
    assert make(values, mask).mean().tolist() == [-1.5, -4.0]
    assert make(values, mask, "draw").mean().tolist() == [-1.5, -4.0]


def test_supervised_losses() -> None:
    values = torch.tensor([[-1.0, -2.0, NAN], [-4.0, NAN, NAN]])
    tokens = make(values, ragged(2, 1, width=3))
    assert tokens.nll().tolist() == [1.5, 4.0]
    assert tokens.nll("sum").tolist() == [3.0, 4.0]
    error = torch.tensor([[0.1, 0.3], [0.2, 0.2]])
    draws = make(-0.5 * 4.0 * error, unit="draw", error=error)
    assert draws.nll().tolist() == draws.nll("sum").tolist() == pytest.approx([0.8, 0.8])
    assert draws.mean_error().tolist() == pytest.approx([0.2, 0.2])  # without the weight


def test_exact_scores_have_no_error() -> None:
    with pytest.raises(ValueError, match="prediction error"):
        make(torch.zeros(2, 3)).mean_error()


def test_padding_takes_no_gradient_even_if_it_holds_nan() -> None:
    values = torch.tensor([[-1.0, NAN]], requires_grad=True)
    scores = make(values, ragged(1, width=2))
    (scores.total() + scores.ratio(make(torch.zeros(1, 2), ragged(1, width=2)))).sum().backward()
    assert values.grad.tolist() == [[2.0, 0.0]]


# ---------------------------------------------------------------- ratios


@pytest.mark.parametrize(
    ("unit", "expected"), [("token", [0.75, -1.0]), ("draw", [0.375, -1.0]), ("step", [0.75, -1.0])]
)
def test_ratio(unit: str, expected: list[float]) -> None:
    mask = ragged(2, 1, width=2)
    policy = make(torch.tensor([[-1.0, -2.0], [-4.0, NAN]]), mask, unit)
    reference = make(torch.tensor([[-1.5, -2.25], [-3.0, 5.0]]), mask, unit)
    assert policy.ratio(reference).tolist() == expected
    assert reference.ratio(policy).tolist() == [-x for x in expected]


def test_ratio_weighs_steps() -> None:
    weights = torch.tensor([[2.0, 10.0]])
    policy = make(torch.tensor([[1.0, 1.0]]), unit="step", weights=weights)
    assert policy.ratio(make(torch.tensor([[0.5, 0.75]]), unit="step")).tolist() == [3.5]


def test_ratio_of_long_responses_keeps_the_signal_in_float32() -> None:
    """Float32 sums near -12000 are multiples of 1/1024: a margin of 1e-4 drowns in a difference of sums."""
    generator = torch.Generator().manual_seed(0)
    reference = -2 - 1.9 * torch.rand(1, 4096, generator=generator)
    policy = reference.clone()
    policy[:, :100] += 2.0**-20
    signal = 100 * 2.0**-20
    assert make(policy).ratio(make(reference)).item() == pytest.approx(signal, rel=1e-6)
    of_totals = make(policy).total() - make(reference).total()
    assert abs(of_totals.item() - signal) > 0.9 * signal


def test_paddings_may_differ_in_width() -> None:
    narrow = make(torch.tensor([[-1.0, -2.0], [-4.0, NAN]]), ragged(2, 1, width=2))
    wide = make(torch.tensor([[-1.5, -2.5, 9.0, 9.0], [-4.5, NAN, 9.0, 9.0]]), ragged(2, 1, width=4))
    assert narrow.ratio(wide).tolist() == [1.0, 0.5]
    assert wide.ratio(narrow).tolist() == [-1.0, -0.5]
    assert wide.unit_ratio(narrow).shape == (2, 4)


@pytest.mark.parametrize(
    "other",
    [
        make(torch.zeros(2, 3), ragged(3, 2, width=3)),  # one unit less
        make(torch.zeros(2, 5), ragged(3, 5, width=5)),  # units beyond the width of the first
        make(torch.zeros(2, 2), ragged(2, 2, width=2)),  # fewer columns than units
        make(torch.zeros(3, 3), ragged(3, 3, 3, width=3)),  # another number of rows
    ],
)
def test_responses_that_were_cut_differently_have_no_ratio(other: LogProbs) -> None:
    own = make(torch.zeros(2, 3), ragged(3, 3, width=3))
    with pytest.raises(ValueError, match="cut differently"):
        own.ratio(other)


# ---------------------------------------------------------------- selections


@dataclass(frozen=True)
class Handle:
    """Stands for next-token distributions: remembers its rows."""

    rows: Tensor

    def take(self, rows: Tensor) -> "Handle":
        return Handle(self.rows[rows])


def test_take_selects_every_field() -> None:
    n, k = 4, 3
    full = torch.arange(n * k, dtype=torch.float32).reshape(n, k)
    scores = replace(
        make(full, ragged(1, 2, 3, 1, width=k), weights=full + 1, error=full + 2, timestep=full + 3),
        slot=torch.tensor([0, 1, 0, 1]),
        distribution=Handle(torch.arange(n)),  # type: ignore[arg-type]
        ids=torch.arange(n * k).reshape(n, k),
    )
    rows = torch.tensor([3, 1])
    taken = scores.take(rows)
    for name in ("values", "mask", "weights", "error", "timestep", "sample", "slot", "ids"):
        assert torch.equal(getattr(taken, name), getattr(scores, name)[rows]), name
    assert taken.distribution.rows.tolist() == [3, 1]  # type: ignore[union-attr]
    assert taken.unit == scores.unit and taken.kind == scores.kind
    assert make(full).take(rows).error is None


def test_the_names_are_those_of_types() -> None:
    for name in ("Kind", "Unit", "Distribution", "LogProbs", "Scores"):
        assert getattr(types, name) is getattr(likelihoods, name)
