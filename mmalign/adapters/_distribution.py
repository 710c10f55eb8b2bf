"""Next-token distributions at chosen positions, in tiles: nothing of size positions x vocabulary is kept.

Letters: M positions that are scored, H hidden width, V vocabulary, N rows of K positions each (padded).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

TILE_BYTES = {
    "cpu": 32 << 20,
    "cuda": 256 << 20,
}  # float32 logits of one tile; small tiles stay in a CPU cache
MIN_TILE_ROWS = 16
CACHE_BYTES = 2 << 20  # float32 logits that stay in a CPU core's cache while they are read several times

# Config attributes that change logits after the output head, and how. Families that name theirs otherwise, or
# use one of these names with another meaning, are caught by the first-batch check against the model itself.
MULTIPLIES = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon-H1
DIVIDES = ("logits_scaling",)  # Granite
SOFT_CAPS = ("final_logit_softcapping",)  # Gemma 2 and later: cap * tanh(logits / cap)

Score = Callable[[Tensor, int, int], Tensor]  # (hidden [m, H], first position, end) -> float32 [m]


@dataclass(frozen=True)
class Head:
    """The output layer as a module (so that LoRA on it acts) with the scaling and soft-cap that follow it."""

    module: nn.Module
    scale: float = 1.0
    soft_cap: float | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Head:
        """The head of a transformers causal language model, its scaling read from the config."""
        module = model.get_output_embeddings()  # type: ignore[operator]
        if not isinstance(module, nn.Module):
            raise ValueError(f"{type(model).__name__} has no output embedding layer to read logits from")
        settings = model.config.get_text_config().to_dict()  # type: ignore[union-attr, operator]
        scale = 1.0
        for name in MULTIPLIES:
            scale *= _number(settings.get(name)) or 1.0
        for name in DIVIDES:
            scale /= _number(settings.get(name)) or 1.0
        caps = [cap for name in SOFT_CAPS if (cap := _number(settings.get(name)))]
        return cls(module, scale, caps[0] if caps else None)

    @property
    def trains(self) -> bool:
        """True if any weight of the head, LoRA on it included, takes a gradient."""
        return any(p.requires_grad for p in self.module.parameters())

    @property
    def is_plain(self) -> bool:
        """True if the head is a frozen matrix product and no more, whose gradient can be written down."""
        module = self.module
        exact = type(module) is nn.Linear and type(module.weight) is nn.Parameter
        return exact and self.soft_cap is None and not self.trains

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Hidden states [m, H] -> log-probabilities [m, V] in float32."""
        logits = self.module(hidden).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return torch.log_softmax(logits, dim=-1)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


# ---------------------------------------------------------------- one number per position, tile by tile


def tile_rows(head: Head, hidden: Tensor) -> int:
    """How many positions one tile holds, from the size of the vocabulary and the device."""
    weight = next(head.module.parameters())
    vocabulary = max(weight.shape) if weight.ndim > 1 else weight.numel()
    return max(MIN_TILE_ROWS, TILE_BYTES.get(hidden.device.type, TILE_BYTES["cuda"]) // (4 * vocabulary))


def tiles(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive tiles over `total` positions."""
    for start in range(0, total, size):
        yield start, min(start + size, total)


class _FrozenHead(torch.autograd.Function):
    """With a frozen head a score's gradient to its own hidden state does not depend on the loss: it is formed
    while the tile's logits exist and only scaled in backward, so the head is never run twice."""

    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, score: Score, size: int) -> Tensor:
        out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        for start, end in tiles(len(hidden), size):
            with torch.enable_grad():
                leaf = hidden[start:end].detach().requires_grad_()
                # Hooks that tools put on the head's input need a node of the graph, which a leaf is not.
                values = score(leaf.view_as(leaf), start, end)
                (gradient[start:end],) = torch.autograd.grad(values.sum(), leaf)
            out[start:end] = values.detach()
        ctx.save_for_backward(gradient)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return (grad_out.unsqueeze(-1) * gradient).to(gradient.dtype), None, None


class _PlainHead(torch.autograd.Function):
    """Log-probabilities of targets under a plain frozen head, see `Head.is_plain`. As in `_FrozenHead` the
    gradient is formed at once; here it overwrites the tile's logits, a few rows at a time: one buffer of the
    tile's size is held in place of four, and rows are still in the cache when they are read again."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, targets: Tensor, head: Head, size: int, differentiate: bool
    ) -> Tensor:
        assert isinstance(head.module, nn.Linear)
        out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if differentiate else hidden.new_empty(0)
        for start, end in tiles(len(hidden), size):
            product = head.module(hidden[start:end].detach())  # hooks must not look for a graph here
            logits = product.float()
            for a, b in tiles(end - start, _rows_in_cache(logits)):
                target = targets[start + a : start + b, None]
                scaled = logits[a:b] if head.scale == 1.0 else logits[a:b] * head.scale
                logp = torch.log_softmax(scaled, dim=-1)
                out[start + a : start + b] = logp.gather(-1, target).squeeze(-1)
                if differentiate:  # d log p(target) / d logits = onehot - p
                    torch.exp(logp, out=logits[a:b]).neg_()
                    logits[a:b].scatter_add_(-1, target, torch.ones_like(target, dtype=logits.dtype))
            if differentiate:
                weight = head.module.weight.to(product.dtype)
                gradient[start:end] = (logits.to(product.dtype) @ weight) * head.scale
        ctx.save_for_backward(gradient)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return (grad_out.unsqueeze(-1) * gradient).to(gradient.dtype), None, None, None, None


def _rows_in_cache(logits: Tensor) -> int:
    """How many rows of logits [m, V] to treat at once: few on a CPU, all where a launch costs more."""
    if logits.device.type != "cpu":
        return max(1, len(logits))
    return max(1, CACHE_BYTES // (4 * logits.shape[1]))


def per_position(hidden: Tensor, head: Head, score: Score, size: int | None = None) -> Tensor:
    """Apply `score` to hidden states [M, H] tile by tile -> [M] float32; score i may depend on row i only.

    A head that trains is recomputed per tile in backward; a frozen one is run once (see `_FrozenHead`).
    """
    size = size or tile_rows(head, hidden)
    trains = head.trains
    if torch.is_grad_enabled() and hidden.requires_grad and not trains and len(hidden):
        return _FrozenHead.apply(hidden, score, size)
    recompute = torch.is_grad_enabled() and trains
    out = []
    for start, end in tiles(len(hidden), size):
        part = hidden[start:end]
        if recompute:
            out.append(checkpoint(score, part, start, end, use_reentrant=False))
        else:
            out.append(score(part, start, end))
    return torch.cat(out) if out else hidden.new_zeros(0, dtype=torch.float32)


def token_log_probs(hidden: Tensor, targets: Tensor, head: Head, size: int | None = None) -> Tensor:
    """Log-probabilities of `targets` [M] given hidden states [M, H] -> [M] float32, differentiable."""
    if head.is_plain and len(hidden):
        differentiate = torch.is_grad_enabled() and hidden.requires_grad
        return _PlainHead.apply(hidden, targets, head, size or tile_rows(head, hidden), differentiate)

    def score(part: Tensor, start: int, end: int) -> Tensor:
        return head.log_probs(part).gather(-1, targets[start:end, None]).squeeze(-1)

    return per_position(hidden, head, score, size)


# ---------------------------------------------------------------- the handle


@dataclass(frozen=True)
class TiledDistribution:
    """Next-token distributions of N rows as hidden states plus head; implements `types.Distribution`.

    `hidden` [M, H] holds every scored position; `index` [N, K] says which one stands where, -1 at padding.
    Padding gives 0. `gather`, `entropy`, `kl_from` and `guided` are differentiable, `argmax` and `topk` not.
    `autocast` is the type that the head ran in when the hidden states were made, which it runs in again. What
    has a `switch` belongs to a frozen source and is never differentiated.
    """

    hidden: Tensor
    index: Tensor
    head: Head
    size: int | None = None
    autocast: torch.dtype | None = None
    switch: Callable[[], AbstractContextManager[object]] | None = None

    @property
    def mask(self) -> Tensor:
        """Which places hold a scored position, [N, K] bool."""
        return self.index >= 0

    def gather(self, ids: Tensor) -> Tensor:
        """Log-probabilities of `ids` [N, K] -> [N, K] float32."""
        with self._entered():
            scored = token_log_probs(self._flat(), ids[self.mask], self.head, self.size)
        return self._spread(scored)

    def argmax(self) -> Tensor:
        """Most likely ids -> [N, K] long."""
        return self.topk(1)[1].squeeze(-1)

    @torch.no_grad()
    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """The k largest log-probabilities and their ids -> two [N, K, k]."""
        hidden = self._flat()
        size = self.size or tile_rows(self.head, hidden)
        with self._entered():
            found = [self.head.log_probs(hidden[a:b]).topk(k) for a, b in tiles(len(hidden), size)]
        values = torch.zeros(*self.index.shape, k, device=hidden.device)
        ids = torch.zeros(*self.index.shape, k, dtype=torch.long, device=hidden.device)
        if found:
            values[self.mask] = torch.cat([f.values for f in found])
            ids[self.mask] = torch.cat([f.indices for f in found])
        return values, ids

    def entropy(self) -> Tensor:
        """Entropy in nats -> [N, K] float32."""

        def score(part: Tensor, start: int, end: int) -> Tensor:
            logp = self.head.log_probs(part)
            return -(logp.exp() * logp).sum(-1)

        return self._each(score)

    def kl_from(self, other: object) -> Tensor:
        """KL(other || self) in nats -> [N, K] float32; `other` is not differentiated.

        Raises ValueError unless both describe the same positions.
        """
        theirs = self._beside(other)

        def score(part: Tensor, start: int, end: int) -> Tensor:
            target = theirs(start, end)
            return (target.exp() * (target - self.head.log_probs(part))).sum(-1)

        return self._each(score)

    def guided(self, ids: Tensor, other: object, guidance: float) -> Tensor:
        """Log-probabilities of `ids` [N, K] where logits are guidance * ours - (guidance - 1) * theirs ->
        [N, K] float32; `other` is not differentiated.

        Raises ValueError unless both describe the same positions.
        """
        theirs, wanted = self._beside(other), ids[self.mask]

        def score(part: Tensor, start: int, end: int) -> Tensor:
            # normalised ones differ from logits by a number per position, which the softmax takes out again
            mixed = guidance * self.head.log_probs(part) - (guidance - 1) * theirs(start, end)
            return torch.log_softmax(mixed, dim=-1).gather(-1, wanted[start:end, None]).squeeze(-1)

        return self._each(score)

    def within(self, switch: Callable[[], AbstractContextManager[object]]) -> TiledDistribution:
        """The handle of a frozen source: a head that is its own as it is, and one that it shares with what
        trains only inside `switch`."""
        return replace(self, switch=switch) if self.head.trains else self

    def take(self, rows: Tensor) -> TiledDistribution:
        """The same handle for a selection of rows, [n] long."""
        return replace(self, index=self.index[rows])

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """The block in which the head runs as it ran for the hidden states."""
        kind = self.hidden.device.type
        with ExitStack() as stack:
            if self.switch is not None:
                stack.enter_context(self.switch())
                stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast(kind, dtype=self.autocast, enabled=self.autocast is not None))
            yield

    def _beside(self, other: object) -> Callable[[int, int], Tensor]:
        """Another source's log-probabilities [m, V] at our positions from one to another, without a graph."""
        assert isinstance(other, TiledDistribution), "both handles must come from the same kind of adapter"
        hidden = other._flat().detach()
        if len(hidden) != int(self.mask.sum()) or not torch.equal(other.mask.sum(-1), self.mask.sum(-1)):
            raise ValueError("two distributions can be compared at the same positions only")

        def at(start: int, end: int) -> Tensor:
            with torch.no_grad(), other._entered():
                return other.head.log_probs(hidden[start:end])

        return at

    def _each(self, score: Score) -> Tensor:
        """`score` of every position, [N, K]."""
        with self._entered():
            scored = per_position(self._flat(), self.head, score, self.size)
        return self._spread(scored)

    def _flat(self) -> Tensor:
        return self.hidden.index_select(0, self.index[self.mask])

    def _spread(self, flat: Tensor) -> Tensor:
        out = torch.zeros(self.index.shape, dtype=flat.dtype, device=flat.device)
        return out.masked_scatter(self.mask, flat)
