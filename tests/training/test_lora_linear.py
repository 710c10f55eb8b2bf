"""LoRA in the fewest operations: what peft computes, and switched off the base itself."""

import copy

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmalign.config import Lora
from mmalign.training import lora
from mmalign.training._lora_linear import FusedLinear


class Two(nn.Module):
    """Two linear layers, the first without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10, bias=False), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        """[..., 6] -> [..., 4]."""
        found: Tensor = self.second(torch.tanh(self.first(x)))
        return found


def models(alpha: float = 3.0, dropout: float = 0.0, filled: bool = True) -> tuple[Two, Two]:
    """The same adapted model twice: as injected, and with peft's own layers."""
    torch.manual_seed(0)
    ours = Two()
    lora.inject(ours, Lora(rank=2, alpha=alpha, dropout=dropout), ["first", "second"], seed=0)
    assert {type(layer) for layer in lora.layers(ours)} == {FusedLinear}
    if filled:
        for name, weight in ours.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight)
    theirs = copy.deepcopy(ours)
    for layer in lora.layers(theirs):
        layer.__class__ = Linear
    return ours, theirs


def gradients(model: Two, x: Tensor) -> Tensor:
    model(x).pow(2).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_values_and_gradients_are_those_of_peft(shape: tuple[int, ...], dropout: float) -> None:
    ours, theirs = models(dropout=dropout)
    x = torch.randn(shape)
    torch.manual_seed(1)
    own = ours(x)
    torch.manual_seed(1)
    torch.testing.assert_close(own, theirs(x), rtol=1e-5, atol=1e-6)
    torch.manual_seed(2)
    found = gradients(ours, x)
    torch.manual_seed(2)
    torch.testing.assert_close(found, gradients(theirs, x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_an_adapter_that_does_nothing_leaves_every_bit(turned: bool, half: bool) -> None:
    """Of values that lie as they come, and of ones that lie across, where products are rounded elsewhere."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"first": nn.Linear(64, 48)})
    lora.inject(model, Lora(rank=2, alpha=3.0), ["first"], seed=0)
    x = torch.randn(2, 64, 65).transpose(1, 2) if turned else torch.randn(2, 65, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        found = model["first"](x)
        with lora.switched_off(model):
            assert torch.equal(found, model["first"](x))


def test_autocast_to_half_precision() -> None:
    ours, theirs = models()
    x = torch.randn(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own, other = ours(x), theirs(x)
        assert own.dtype == torch.bfloat16
        torch.testing.assert_close(own, other, rtol=2e-2, atol=2e-2)
        found = gradients(ours, x)
    assert found.dtype == torch.float32 and bool(found.isfinite().all()) and float(found.norm()) > 0


def fused(value: Tensor) -> bool:
    return value.grad_fn is not None and "_Product" in value.grad_fn.name()


def test_half_precision_weights_under_autocast_train_float32_adapters() -> None:
    ours, theirs = models()
    for model in (ours, theirs):
        for name, weight in model.named_parameters():
            if "lora_" not in name:
                weight.data = weight.data.bfloat16()
    x = torch.randn(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused(ours(x)) and not fused(theirs(x))
        torch.testing.assert_close(ours(x), theirs(x), rtol=2e-2, atol=2e-2)
        own, other = gradients(ours, x), gradients(theirs, x)
    assert own.dtype == torch.float32
    assert float(torch.cosine_similarity(own, other, dim=0)) > 0.999
    assert float(own.norm() / other.norm()) == pytest.approx(1.0, abs=0.02)


def test_recomputed_activations_give_the_same_gradients() -> None:
    ours, _ = models()
    x = torch.randn(3, 6)
    plain = gradients(ours, x)
    ours.zero_grad()
    checkpoint(ours, x, use_reentrant=False).pow(2).sum().backward()
    again = torch.cat([p.grad.flatten() for p in ours.parameters() if p.grad is not None])
    assert fused(ours(x)) and torch.equal(plain, again)


def test_a_base_that_trains_gets_its_gradient() -> None:
    ours, theirs = models()
    x = torch.randn(3, 6)
    for model in (ours, theirs):
        model.requires_grad_(True)
    assert not fused(ours(x))
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x))


def test_half_precision_weights_without_autocast_go_the_way_of_peft() -> None:
    ours, theirs = models()
    for model in (ours, theirs):
        for name, weight in model.named_parameters():
            if "lora_" not in name:
                weight.data = weight.data.bfloat16()
    x = torch.randn(4, 6).bfloat16()
    assert torch.equal(ours(x), theirs(x))


def test_switching_off_gives_the_base_and_changes_nothing_else() -> None:
    ours, _ = models()
    plain = Two()
    plain.load_state_dict(
        {n.replace("base_layer.", ""): v for n, v in ours.state_dict().items() if "lora_" not in n}
    )
    x = torch.randn(3, 6)
    trains = [p.requires_grad for p in ours.parameters()]
    layers = lora.layers(ours)
    with pytest.raises(RuntimeError, match="inside"), lora.switched_off(ours, layers):
        assert torch.equal(ours(x), plain(x))
        raise RuntimeError("inside")
    assert not torch.equal(ours(x), plain(x))
    assert [p.requires_grad for p in ours.parameters()] == trains


def test_frozen_adapters_stay_frozen_when_switched_off_and_on() -> None:
    ours, _ = models()
    ours.requires_grad_(False)
    with lora.switched_off(ours):
        pass
    assert not any(p.requires_grad for p in ours.parameters())
