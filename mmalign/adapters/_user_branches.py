"""The branches by which a UNet reads the vectors of users.

Every cross-attention gets a second one, over the tokens of the user's vector, whose output is added to the
text's (decoupled, as in IP-Adapter, arXiv 2308.06721) and starts at zero.

Letters: T tokens of a user, W their width, B noised latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from mmalign.adapters._users import NAME, UserPart, Users
from mmalign.types import derive_seed


class UserBranch(UserPart):
    """An attention processor: what `inner` gives, plus attention over the user's tokens."""

    def __init__(self, inner: Any, attention: Attention, width: int) -> None:
        super().__init__()
        self.inner = inner
        size = attention.inner_dim
        self.user_k = nn.Linear(width, size, bias=False)
        self.user_v = nn.Linear(width, size, bias=False)
        self.user_out = nn.Linear(size, attention.out_dim, bias=False)
        nn.init.zeros_(self.user_out.weight)

    def __call__(  # by these names upstream asks
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        user: Tensor | None = None,
    ) -> Tensor:
        """States [B, places, size] of the latents; `user` [B, T, W]."""
        found: Tensor = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if user is None:
            return found
        key, value = self.user_k(user), self.user_v(user)
        query = attn.to_q(hidden_states).to(key.dtype)
        heads = [one.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for one in (query, key, value)]
        seen = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return found + self.user_out(seen).to(found.dtype)


class _Untold:
    """The processor of self-attention, which is told of the user like every other and does without."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        user: Tensor | None = None,
    ) -> Tensor:
        found: Tensor = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return found


def attach(denoiser: nn.Module, table: Users) -> None:
    """Put the table and a branch of every cross-attention into a UNet, in place; the first weights are always
    the same."""
    width = table.table.shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, 0, "", "user branches"))
        for name, attention in _attentions(denoiser):
            crossed = name.endswith("attn2")
            inner = attention.processor
            attention.set_processor(UserBranch(inner, attention, width) if crossed else _Untold(inner))
    denoiser.add_module(NAME, table)


def branches(model: nn.Module) -> dict[str, UserBranch]:
    """Every branch by the name of its attention."""
    return {
        name: attention.processor
        for name, attention in _attentions(model)
        if isinstance(attention.processor, UserBranch)
    }


def _attentions(model: nn.Module) -> list[tuple[str, Attention]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Attention)]


@contextmanager
def taken_out(model: nn.Module) -> Iterator[None]:
    """The plain upstream model inside the block, to be saved as such."""
    table = model._modules.pop(NAME, None)
    changed = [
        (attention, attention.processor)
        for _, attention in _attentions(model)
        if isinstance(attention.processor, UserBranch | _Untold)
    ]
    for attention, processor in changed:
        attention.set_processor(processor.inner)
    try:
        yield
    finally:
        for attention, processor in changed:
            attention.set_processor(processor)
        if table is not None:
            model.add_module(NAME, table)
