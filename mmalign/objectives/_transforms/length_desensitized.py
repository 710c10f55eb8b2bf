"""Length-desensitized scores: the excess of the longer response counts less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmalign.types import AllMean, Changed, LogProbs, Scores, Transform


@dataclass(frozen=True)
class LengthDesensitized(Transform):
    """LD-DPO's scores (arXiv 2409.06411): tokens beyond the shorter response's length are scaled by `alpha`.

    With m = min(length chosen, length rejected), units up to m keep weight 1 and later ones get alpha, in
    every source. alpha 1 changes nothing; alpha 0 compares equal lengths. Needs both sides of a pair and a
    model that scores tokens.
    """

    alpha: float = 0.5  # weight of tokens beyond the shorter response's length; 1 changes nothing
    needs = frozenset({"units"})
    roles = ("chosen", "rejected")

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha: must lie in [0, 1], got {self.alpha}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], all_mean: AllMean) -> Changed:
        """Scores with scaled values; masks and lengths stay as they are."""
        return Changed({source: self._source(roles) for source, roles in scores.items()})

    def _source(self, roles: Mapping[str, LogProbs]) -> dict[str, LogProbs]:
        if "chosen" not in roles or "rejected" not in roles:
            return dict(roles)
        shorter = torch.minimum(roles["chosen"].mask.sum(-1), roles["rejected"].mask.sum(-1))
        return {**roles, **{role: self._scale(roles[role], shorter) for role in ("chosen", "rejected")}}

    def _scale(self, side: LogProbs, shorter: torch.Tensor) -> LogProbs:
        late = side.mask.long().cumsum(-1) > shorter[:, None]
        return replace(side, values=torch.where(late, self.alpha * side.values, side.values))
