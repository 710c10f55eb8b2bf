"""Log-likelihoods of responses, unit by unit: what an adapter gives and an objective takes.

Letters used for shapes: N rows (one response each), K units of a row (response tokens, noise draws or
denoising steps), V entries of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

Kind = Literal["exact", "surrogate", "trajectory", "reward"]
Unit = Literal["token", "draw", "step", "segment", "aspect"]


class Distribution(Protocol):
    """Next-token distributions at the K response positions of N rows, never held as an [N, K, V] tensor."""

    def gather(self, ids: Tensor) -> Tensor:
        """Log-probabilities of `ids` [N, K] -> [N, K] float32."""

    def argmax(self) -> Tensor:
        """Most likely ids -> [N, K] long."""

    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """The k largest log-probabilities and their ids -> two [N, K, k]."""

    def entropy(self) -> Tensor:
        """Entropy in nats -> [N, K] float32."""

    def kl_from(self, other: Distribution) -> Tensor:
        """KL(other || self) in nats -> [N, K] float32; `other` is not differentiated."""

    def guided(self, ids: Tensor, other: Distribution, guidance: float) -> Tensor:
        """Log-probabilities of `ids` [N, K] under the distribution proportional to
        self^guidance / other^(guidance - 1) -> [N, K] float32; `other` is not differentiated."""

    def within(self, switch: Callable[[], AbstractContextManager[object]]) -> Distribution:
        """The handle of a frozen source whose weights are in place only inside `switch`."""

    def take(self, rows: Tensor) -> Distribution:
        """The same handle for a selection of rows."""


@dataclass(frozen=True)
class LogProbs:
    """Log-likelihoods of N responses, unit by unit.

    `values` [N, K] (float32 in training), `mask` [N, K] bool. An exact model gives one value per response
    token. A diffusion model gives one surrogate -w(t) * e / 2 per noise draw, with e the mean squared
    prediction error: then `error` [N, K] holds e itself. A reward model gives no likelihood but one score per
    aspect of the response.
    """

    values: Tensor
    mask: Tensor
    kind: Kind
    unit: Unit
    sample: Tensor  # [N] long: index of the row's sample
    slot: Tensor  # [N] long: place in a list
    weights: Tensor | None = None  # [N, K], weight of each denoising step in `total`
    error: Tensor | None = None  # [N, K], raw e of a surrogate
    timestep: Tensor | None = None  # [N, K], share of the noise schedule in [0, 1], 1 is pure noise
    signal: Tensor | None = None  # [N, K], factor of the clean latents in what was noised; a flow's is 1 - t
    prediction: Tensor | None = None  # [N, K, ...], what the model said; only where it was asked for
    target: Tensor | None = None  # [N, K, ...], what `error` compares it with; likewise
    distribution: Distribution | None = None
    ids: Tensor | None = None  # [N, K] long on the CPU, every unit's token, -1 at padding; if asked for
    written: LogProbs | None = (
        None  # a reward's row: likelihoods of the text behind which it is; if asked for
    )

    def _reduce(self, per_unit: Tensor) -> Tensor:
        """Sum over tokens, mean over draws and aspects, weighted sum over steps. [N, K] -> [N]."""
        kept = torch.where(self.mask, per_unit, torch.zeros_like(per_unit))
        if self.unit in ("draw", "segment", "aspect"):
            return kept.sum(-1) / self.mask.sum(-1)
        if self.unit == "step" and self.weights is not None:
            return (kept * self.weights).sum(-1)
        return kept.sum(-1)

    def total(self) -> Tensor:
        """Log-likelihood of each response, [N]; from a reward model its score, the mean over aspects."""
        return self._reduce(self.values)

    def ratio(self, other: LogProbs) -> Tensor:
        """log p_self - log p_other of each response, [N]. Units are subtracted before they are summed:
        subtracting two long sums in float32 would lose the small difference that is the signal."""
        return self._reduce(self.unit_ratio(other))

    def unit_ratio(self, other: LogProbs) -> Tensor:
        """Per-unit log-ratio to the same responses scored elsewhere, [N, K]. Paddings may differ in width."""
        theirs, their_mask = fit(other.values, self.values.shape[1]), fit(other.mask, self.mask.shape[1])
        on_cpu = self.mask.device.type == "cpu"  # elsewhere the comparison would stall the device every step
        same = not on_cpu or (
            torch.equal(their_mask, self.mask) and not other.mask[:, self.mask.shape[1] :].any()
        )
        if len(theirs) != len(self.values) or not same:
            raise ValueError(
                "a ratio needs the same units in both sources: the responses were cut differently"
            )
        return self.values - theirs

    @property
    def length(self) -> Tensor:
        """Number of scored units, [N]: tokens or steps; 1 for a surrogate, whose error is already a mean."""
        if self.unit in ("draw", "segment"):
            return torch.ones_like(self.values[:, 0])
        return self.mask.sum(-1).to(self.values.dtype)

    def mean(self) -> Tensor:
        """Log-likelihood per unit, [N]."""
        return self.total() / self.length

    def nll(self, reduction: Literal["sum", "mean"] = "mean") -> Tensor:
        """The supervised loss of each response, [N]: negative log-likelihood summed over tokens or per token;
        for a surrogate the weighted error w * e, which is twice the negative surrogate."""
        if self.kind == "surrogate":
            return -2.0 * self.total()
        return -(self.total() if reduction == "sum" else self.mean())

    def mean_error(self) -> Tensor:
        """Raw prediction error averaged over draws, [N]; only a surrogate has one."""
        if self.error is None:
            raise ValueError("only a diffusion or flow model has a prediction error")
        return self._reduce(self.error)

    def detached(self) -> LogProbs:
        """Without a graph, and without predictions, for metrics."""
        error = None if self.error is None else self.error.detach()
        values = self.values.detach()
        written = None if self.written is None else self.written.detached()
        plain = replace(self, values=values, error=error, prediction=None, target=None, distribution=None)
        return replace(plain, written=written)

    def beside(self, others: Sequence[LogProbs]) -> LogProbs:
        """The same rows with further units, without predictions."""

        parts = (self, *others)

        def joined(held: Sequence[Tensor | None]) -> Tensor | None:
            return None if held[0] is None else torch.cat([one for one in held if one is not None], 1)

        return replace(
            self,
            values=torch.cat([part.values for part in parts], 1),
            mask=torch.cat([part.mask for part in parts], 1),
            weights=joined([part.weights for part in parts]),
            error=joined([part.error for part in parts]),
            timestep=joined([part.timestep for part in parts]),
            signal=joined([part.signal for part in parts]),
            ids=joined([part.ids for part in parts]),
            prediction=None,
            target=None,
        )

    def take(self, rows: Tensor) -> LogProbs:
        """The same record for a selection of rows, [n] long on the CPU."""
        # indexing a device's tensor by one on the CPU would make the host wait for all work of the device
        there = rows.to(self.values.device, non_blocking=True)

        def pick(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[there]

        return replace(
            self,
            values=self.values[there],
            mask=self.mask[there],
            sample=self.sample[rows],
            slot=self.slot[rows],
            weights=pick(self.weights),
            error=pick(self.error),
            timestep=pick(self.timestep),
            signal=pick(self.signal),
            prediction=pick(self.prediction),
            target=pick(self.target),
            distribution=None if self.distribution is None else self.distribution.take(rows),
            ids=None if self.ids is None else self.ids[rows],
            written=None if self.written is None else self.written.take(rows),
        )


def fit(values: Tensor, width: int) -> Tensor:
    """Columns cut or zero-padded to `width`."""
    if values.shape[1] >= width:
        return values[:, :width]
    return torch.nn.functional.pad(values, (0, width - values.shape[1]))


Scores = Mapping[str, Mapping[str, LogProbs]]  # scores[source][role]
