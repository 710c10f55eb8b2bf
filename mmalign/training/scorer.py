"""The one module that accelerate prepares: it owns the policy, and all scoring goes through its forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from mmalign.training.optim import evaluating
from mmalign.types import Adapter, Batch, Draw, Inversion, LogProbs, Rollout

Switch = Callable[[], AbstractContextManager[nn.Module]]  # yields the module that scores as a frozen source


class Scorer(nn.Module):
    """Scores a batch with the policy or with a frozen source that is derived from it.

    DDP, FSDP2 and autocast act on `forward` only. Calling a submodule of the policy from elsewhere would
    leave every process with its own gradients, without an error.
    """

    def __init__(self, adapter: Adapter, precision: str) -> None:
        super().__init__()
        self.policy = adapter.policy
        self._adapter = adapter
        self._precision = precision
        self._switches: dict[str, Switch] = {}

    def add_sources(self, switches: Mapping[str, Switch]) -> None:
        """Name the frozen sources; modules of their own stay unregistered, so that nothing wraps them."""
        self._switches.update(switches)

    def forward(
        self,
        batch: Batch,
        draw: Draw,
        needs: frozenset[str],
        source: str = "policy",
        walk: Inversion | Rollout | None = None,
        seeds: Sequence[int] = (),
    ) -> LogProbs | Draw | Tensor:
        """Log-likelihoods of every row of the batch, float32; with an inversion what it adds to the draw, led
        by the source; with a rollout media sampled from the policy, with their graph."""
        with self._autocast():
            if isinstance(walk, Rollout):
                return self._adapter.roll_out(self.policy, batch, walk, seeds)
            if walk is not None:
                with self._model(source) as model, torch.no_grad(), evaluating(model):
                    return self._adapter.invert(model, batch, draw, walk, seeds)
            if source == "policy":
                return self._adapter.logprobs(self.policy, batch, draw, needs)
            with self._switches[source]() as model, torch.no_grad():
                scored = self._adapter.logprobs(model, batch, draw, needs)
            whole = scored.distribution
            return (
                scored
                if whole is None
                else replace(scored, distribution=whole.within(self._switches[source]))
            )

    def _model(self, source: str) -> AbstractContextManager[nn.Module]:
        return nullcontext(self.policy) if source == "policy" else self._switches[source]()

    def _autocast(self) -> AbstractContextManager[object]:
        if self._precision == "bf16":
            return torch.autocast(self._adapter.device.type, dtype=torch.bfloat16)
        return nullcontext()
