"""Next-token distributions held whole, which handles are measured against, and scores that carry them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from fixtures import PADDING, exact
from torch import Tensor

from mmalign.types import LogProbs


@dataclass(frozen=True)
class Whole:
    """Distributions from logits [N, K, V]; what a mask leaves out is 0, as a handle has it."""

    logits: Tensor
    mask: Tensor

    @property
    def logp(self) -> Tensor:
        """Log-probabilities [N, K, V]."""
        return torch.log_softmax(self.logits, -1)

    def _kept(self, values: Tensor) -> Tensor:
        return torch.where(self.mask, values, torch.zeros_like(values))

    def gather(self, ids: Tensor) -> Tensor:
        """Of one id per position."""
        return self._kept(self.logp.gather(-1, ids.clamp(min=0)[..., None]).squeeze(-1))

    def argmax(self) -> Tensor:
        """Most likely ids."""
        return self._kept(self.logits.argmax(-1))

    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """The k most likely, without a graph."""
        found = self.logp.detach().topk(k)
        return found.values, found.indices

    def entropy(self) -> Tensor:
        """In nats."""
        return self._kept(-(self.logp.exp() * self.logp).sum(-1))

    def kl_from(self, other: "Whole") -> Tensor:
        """KL(other || self)."""
        theirs = other.logp.detach()
        return self._kept((theirs.exp() * (theirs - self.logp)).sum(-1))

    def guided(self, ids: Tensor, other: "Whole", guidance: float) -> Tensor:
        """Of logits mixed."""
        mixed = guidance * self.logits - (guidance - 1) * other.logits.detach()
        return Whole(mixed, self.mask).gather(ids)

    def within(self, switch: Callable[[], AbstractContextManager[object]]) -> "Whole":
        """Logits do not change with weights."""
        return self

    def take(self, rows: Tensor) -> "Whole":
        """A selection of rows."""
        return Whole(self.logits[rows], self.mask[rows])


def from_logits(logits: Tensor, ids: Tensor, mask: Tensor | None = None) -> LogProbs:
    """Exact scores of ids [N, K] with the distributions that they come from."""
    kept = torch.ones(ids.shape, dtype=torch.bool) if mask is None else mask
    whole = Whole(logits, kept)
    values = torch.where(kept, whole.gather(ids), PADDING)
    return replace(exact(values, kept), distribution=whole, ids=ids.masked_fill(~kept, -1))  # type: ignore[arg-type]


def carrying(scored: LogProbs, seed: int, vocabulary: int = 7) -> LogProbs:
    """The scores with random distributions, which follow the values and their gradients, and random ids."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*scored.mask.shape, vocabulary)
    fixed = torch.randn(shape, generator=generator, dtype=torch.float64).to(scored.values.dtype)
    slope = torch.randn(shape, generator=generator, dtype=torch.float64).to(scored.values.dtype)
    moving = torch.tanh(torch.where(scored.mask, scored.values, torch.zeros_like(scored.values)))[..., None]
    ids = torch.randint(vocabulary, scored.mask.shape, generator=generator)
    whole = Whole(fixed + slope * moving, scored.mask)
    return replace(scored, distribution=whole, ids=ids.masked_fill(~scored.mask, -1))  # type: ignore[arg-type]


def wider(scored: LogProbs, extra: int) -> LogProbs:
    """The same scores with further padding."""
    pad = torch.nn.functional.pad
    mask = pad(scored.mask, (0, extra))
    whole = scored.distribution
    if whole is not None:
        assert isinstance(whole, Whole)
        whole = Whole(pad(whole.logits, (0, 0, 0, extra), value=PADDING), mask)  # type: ignore[assignment]
    ids = None if scored.ids is None else pad(scored.ids, (0, extra), value=-1)
    return replace(
        scored,
        values=pad(scored.values, (0, extra), value=PADDING),
        mask=mask,
        distribution=whole,  # type: ignore[arg-type]
        ids=ids,
    )
