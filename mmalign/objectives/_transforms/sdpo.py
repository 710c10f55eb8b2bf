"""Winner-preserving safeguard: the rejected side's gradient shrinks where it would raise the chosen error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mmalign.types import AllMean, Changed, LogProbs, Scores, Transform


@dataclass(frozen=True)
class SDPO(Transform):
    """The safeguard of Diffusion-SDPO (arXiv 2511.03317, eq. 15 to 17), before dpo, dmpo, dspo or mapo.

    With the residuals u = prediction - target of both sides, the rejected side's gradient is multiplied by
    lambda = min(1, (1 - mu) <u_w, u_w> / <u_w, u_l>) where the inner product is above 0, else by 1. A small
    step along the loss's gradient on the predictions then lowers the chosen error by at least the share `mu`
    of what the chosen side alone would give. No value changes, only gradients, and lambda carries none. That
    the weights are shared by both predictions is not part of the argument: it is a first-order guard in
    output space. mu by the authors: 0.9 (SD1.5 with DPO and DMPO), 0.2 (SD1.5 with DSPO), 0.6 (SDXL).

    `scope: per_pair` gives every pair its own lambda. `per_batch` takes both products over the whole step, on
    all processes; the authors' code takes them over a process's forward.
    """

    # share of the winner's own gain that a step keeps at least; the larger, the less the loser counts
    mu: float = 0.9
    # one factor for every pair, or one for all pairs of a step
    scope: Literal["per_pair", "per_batch"] = "per_pair"

    needs = frozenset({"prediction"})
    roles = ("chosen", "rejected")

    def __post_init__(self) -> None:
        if not 0 <= self.mu <= 1:
            raise ValueError(f"mu: must lie in [0, 1], got {self.mu}")

    @property
    def batch_coupled(self) -> bool:
        """One lambda for all couples them."""
        return self.scope == "per_batch"

    def __call__(self, scores: Scores, labels: Mapping[str, Any], all_mean: AllMean) -> Changed:
        """The same numbers with another gradient; metric `loser_scale`, lambda of every pair [S]."""
        policy = scores["policy"]
        chosen, rejected = _residual(policy["chosen"]), _residual(policy["rejected"])
        # means, not sums: their size does not depend on how many elements a latent has
        own, cross = (chosen * chosen).mean(-1), (chosen * rejected).mean(-1)
        if self.scope == "per_batch":
            own, cross = all_mean(own).expand_as(own), all_mean(cross).expand_as(cross)
        against = cross > 0
        limit = (1 - self.mu) * own / torch.where(against, cross, torch.ones_like(cross))
        scale = torch.where(against, limit.clamp(max=1), torch.ones_like(limit))
        kept = {**policy, "rejected": _scaled(policy["rejected"], scale)}
        return Changed({**scores, "policy": kept}, {"loser_scale": scale})


def _residual(side: LogProbs) -> Tensor:
    """Prediction minus target of every response, all draws, [S, elements]; detached, at least float32."""
    if side.prediction is None or side.target is None:
        raise ValueError("sdpo: these scores carry no predictions")
    return (
        (side.prediction.detach() - side.target)
        .flatten(1)
        .to(torch.promote_types(side.prediction.dtype, torch.float32))
    )


def _scaled(side: LogProbs, scale: Tensor) -> LogProbs:
    """The same scores with `scale` [S] times their gradient."""

    def change(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        still = values.detach()
        factor = scale.reshape(-1, *[1] * (values.ndim - 1)).to(values.dtype)
        return still + factor * (values - still)

    changed = change(side.values)
    assert changed is not None
    return replace(side, values=changed, error=change(side.error), prediction=change(side.prediction))
