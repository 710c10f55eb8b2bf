"""Tiled distributions against the whole [M, V] tensor, values and gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmalign.adapters import _distribution
from mmalign.adapters._distribution import Head, TiledDistribution, per_position, token_log_probs

M, H, V = 13, 8, 29


def make_head(trains: bool, soft_cap: float | None = None) -> Head:
    torch.manual_seed(0)
    layer = nn.Linear(H, V, bias=True).requires_grad_(trains)
    return Head(layer, scale=0.7, soft_cap=soft_cap)


def whole(head: Head, hidden: torch.Tensor) -> torch.Tensor:
    logits = head.module(hidden) * 0.7
    if head.soft_cap:
        logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
    return logits.log_softmax(-1)


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
@pytest.mark.parametrize("size", [4, 13, 100])
def test_log_probs_and_gradients_equal_the_untiled_ones(
    trains: bool, soft_cap: float | None, size: int
) -> None:
    head = make_head(trains, soft_cap)
    targets = torch.randint(V, (M,))
    cotangent = torch.randn(M)
    tiled, plain = (torch.randn(M, H, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    tiled.requires_grad_()
    plain.requires_grad_()

    ours = token_log_probs(tiled, targets, head, size)
    (ours * cotangent).sum().backward()
    our_weight = head.module.weight.grad
    head.module.zero_grad()
    theirs = whole(head, plain).gather(-1, targets[:, None]).squeeze(-1)
    (theirs * cotangent).sum().backward()

    assert torch.allclose(ours, theirs, atol=1e-6)
    assert tiled.grad is not None and plain.grad is not None
    assert torch.allclose(tiled.grad, plain.grad, atol=1e-6)
    if trains:
        assert torch.allclose(our_weight, head.module.weight.grad, atol=1e-6)  # type: ignore[arg-type]
    else:
        assert our_weight is None


@pytest.mark.parametrize(("trains", "runs"), [(False, 1), (True, 2)])
def test_a_frozen_head_runs_once_and_a_training_one_twice(trains: bool, runs: int) -> None:
    head = make_head(trains)
    seen = []
    head.module.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    hidden = torch.randn(M, H, requires_grad=True)
    token_log_probs(hidden, torch.zeros(M, dtype=torch.long), head, size=5).sum().backward()
    assert sum(shape[0] for shape in seen) == runs * M
    assert max(shape[0] for shape in seen) == 5


def test_rows_treated_a_few_at_a_time_score_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def scored() -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.randn(M, H, generator=torch.Generator().manual_seed(1)).requires_grad_()
        values = token_log_probs(hidden, torch.arange(M), make_head(False))
        (gradient,) = torch.autograd.grad(values.square().sum(), hidden)
        return values.detach(), gradient

    at_once = scored()
    monkeypatch.setattr(_distribution, "CACHE_BYTES", 2 * 4 * V)  # two rows
    in_pieces = scored()
    assert torch.equal(at_once[0], in_pieces[0])
    assert torch.allclose(at_once[1], in_pieces[1], atol=1e-7)


def test_no_position_gives_no_score() -> None:
    empty = torch.zeros(0, H, requires_grad=True)
    assert token_log_probs(empty, torch.zeros(0, dtype=torch.long), make_head(False)).shape == (0,)


def test_bfloat16_hidden_states_are_scored_in_float32() -> None:
    head = Head(nn.Linear(H, V).to(torch.bfloat16).requires_grad_(False))
    hidden = torch.randn(M, H, dtype=torch.bfloat16, requires_grad=True)
    values = token_log_probs(hidden, torch.zeros(M, dtype=torch.long), head)
    values.sum().backward()
    assert values.dtype == torch.float32
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16


# rows of 3, 0 and 2 positions
INDEX = torch.tensor([[0, 1, 2], [-1, -1, -1], [3, 4, -1]])


def make_handle(trains: bool = False, seed: int = 3) -> tuple[TiledDistribution, torch.Tensor]:
    head = make_head(trains, soft_cap=2.0)
    hidden = torch.randn(5, H, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    logp = torch.zeros(3, 3, V)
    logp[INDEX >= 0] = whole(head, hidden)
    return TiledDistribution(hidden, INDEX, head, size=2), logp


def test_handle_equals_whole_distributions() -> None:
    handle, logp = make_handle()
    ids = torch.randint(V, (3, 3))
    mask = INDEX >= 0
    assert torch.equal(handle.mask, mask)
    assert torch.allclose(handle.gather(ids), logp.gather(-1, ids[..., None]).squeeze(-1), atol=1e-6)
    assert torch.equal(handle.argmax()[mask], logp.argmax(-1)[mask])
    values, top = handle.topk(4)
    assert values.shape == top.shape == (3, 3, 4)
    assert torch.allclose(values[mask], logp.topk(4).values[mask], atol=1e-6)
    entropy = -(logp.exp() * logp).sum(-1) * mask
    assert torch.allclose(handle.entropy(), entropy, atol=1e-6)


def test_uniform_logits_have_the_entropy_of_the_vocabulary() -> None:
    layer = nn.Linear(H, V)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    handle = TiledDistribution(torch.randn(5, H), INDEX, Head(layer))
    expected = torch.log(torch.tensor(float(V)))
    assert torch.allclose(handle.entropy()[INDEX >= 0], expected.expand(5), atol=1e-6)


@pytest.mark.parametrize("trains", [False, True])
def test_divergence_is_that_of_the_other_source_and_leaves_it_alone(trains: bool) -> None:
    ours, our_logp = make_handle(trains, seed=3)
    other, other_logp = make_handle(trains, seed=4)
    found = ours.kl_from(other)
    expected = (other_logp.exp() * (other_logp - our_logp)).sum(-1)
    assert torch.allclose(found, expected, atol=1e-6)
    assert bool((found >= -1e-6).all())
    assert torch.equal(ours.kl_from(ours), torch.zeros(3, 3))
    (gradient,) = torch.autograd.grad(found.sum(), ours.hidden, retain_graph=True)
    (plain,) = torch.autograd.grad(expected.sum(), ours.hidden, retain_graph=True)
    assert torch.allclose(gradient, plain, atol=1e-6)
    assert torch.autograd.grad(found.sum(), other.hidden, allow_unused=True) == (None,)


def test_divergence_needs_equal_positions() -> None:
    handle, _ = make_handle()
    with pytest.raises(ValueError, match="same positions"):
        handle.kl_from(handle.take(torch.tensor([2, 1, 0])))


def test_taking_rows_keeps_their_distributions() -> None:
    handle, logp = make_handle()
    taken = handle.take(torch.tensor([2, 0]))
    assert torch.allclose(taken.entropy(), handle.entropy()[[2, 0]], atol=1e-6)
    assert torch.equal(taken.mask, handle.mask[[2, 0]])
    (gradient,) = torch.autograd.grad(taken.entropy().sum(), handle.hidden)
    assert bool((gradient.abs().sum(-1) > 0).all())


def test_entropy_gradient_with_and_without_recompute() -> None:
    for trains in (False, True):
        handle, logp = make_handle(trains)
        (ours,) = torch.autograd.grad(handle.entropy().sum(), handle.hidden, retain_graph=True)
        plain = -(logp.exp() * logp).sum(-1)[INDEX >= 0].sum()
        (theirs,) = torch.autograd.grad(plain, handle.hidden)
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_score_sees_its_own_tile() -> None:
    bounds = []

    def score(part: torch.Tensor, start: int, end: int) -> torch.Tensor:
        bounds.append((start, end, len(part)))
        return part.sum(-1).float()

    per_position(torch.randn(7, H), make_head(False), score, size=3)
    assert bounds == [(0, 3, 3), (3, 6, 3), (6, 7, 1)]


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("guidance", [0.5, 1.0, 2.5])
def test_guided_log_probs_are_those_of_mixed_logits(trains: bool, guidance: float) -> None:
    ours, our_logp = make_handle(trains, seed=3)
    other, other_logp = make_handle(trains, seed=4)
    ids = torch.randint(V, (3, 3), generator=torch.Generator().manual_seed(1))
    found = ours.guided(ids, other, guidance)
    mixed = (guidance * our_logp - (guidance - 1) * other_logp).log_softmax(-1)
    expected = mixed.gather(-1, ids[..., None]).squeeze(-1) * (INDEX >= 0)
    assert torch.allclose(found, expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), ours.hidden, retain_graph=True)
    (plain,) = torch.autograd.grad(expected.sum(), ours.hidden, retain_graph=True)
    assert torch.allclose(gradient, plain, atol=1e-6)
    assert torch.autograd.grad(found.sum(), other.hidden, allow_unused=True) == (None,)
    if guidance == 1.0:
        assert torch.allclose(found, ours.gather(ids), atol=1e-6)


def test_a_handle_runs_its_head_as_it_ran_before() -> None:
    """In half precision the head's weights and the hidden states may be of two types outside autocast."""
    handle, _ = make_handle()
    half = TiledDistribution(handle.hidden.bfloat16(), INDEX, handle.head, autocast=torch.bfloat16)
    ids = torch.zeros(3, 3, dtype=torch.long)
    assert torch.allclose(half.gather(ids), handle.gather(ids), atol=0.05)
    full = handle.gather(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(handle.gather(ids), full)
    other, _ = make_handle(seed=4)
    whole = TiledDistribution(other.hidden.bfloat16(), INDEX, other.head, autocast=torch.bfloat16)
    assert torch.allclose(handle.kl_from(whole), handle.kl_from(other), atol=0.1)


def test_a_shared_head_has_the_frozen_weights_only_inside_its_switch() -> None:
    """Positions of the frozen source, the policy's head: the switch puts the old weights back each time."""
    policy, _ = make_handle(trains=True, seed=3)
    frozen, _ = make_handle(trains=True, seed=4)
    ids = torch.ones(3, 3, dtype=torch.long)
    layer = policy.head.module
    assert isinstance(layer, nn.Linear)
    old = layer.weight.data
    moved = old + torch.randn(old.shape, generator=torch.Generator().manual_seed(9))

    @contextmanager
    def switch() -> Iterator[None]:
        layer.weight.data = old
        yield
        layer.weight.data = moved

    borrowed = replace(frozen, head=policy.head).within(switch)
    layer.weight.data = moved
    assert torch.equal(borrowed.gather(ids), frozen.gather(ids))  # whose head has not moved
    assert torch.equal(borrowed.topk(3)[0], frozen.topk(3)[0])
    assert not borrowed.gather(ids).requires_grad
    ours, theirs = whole(policy.head, policy.hidden), whole(frozen.head, frozen.hidden)
    expected = (theirs.exp() * (theirs - ours)).sum(-1)
    found = policy.kl_from(borrowed)
    assert torch.allclose(found[INDEX >= 0], expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), policy.hidden, retain_graph=True)
    (plain,) = torch.autograd.grad(expected.sum(), policy.hidden)
    assert torch.allclose(gradient, plain, atol=1e-5)
    assert torch.equal(layer.weight.data, moved)


def test_a_head_of_its_own_needs_no_switch() -> None:
    handle, _ = make_handle(trains=False)

    @contextmanager
    def never() -> Iterator[None]:
        raise AssertionError
        yield

    assert handle.within(never) is handle
