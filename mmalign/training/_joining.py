"""Scores of several forwards as one: of other units of the same rows, or of other samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mmalign.types import LogProbs, Scores, UserError


def join_units(parts: Sequence[Mapping[str, LogProbs]]) -> dict[str, LogProbs]:
    """Scores of the same rows over several shares of their units as one."""
    return {role: parts[0][role].beside([part[role] for part in parts[1:]]) for role in parts[0]}


def join_scores(parts: Sequence[Scores], sizes: Sequence[int]) -> dict[str, dict[str, LogProbs]]:
    """Scores of several micro-batches of `sizes` samples as one, units padded to the longest."""
    joined: dict[str, dict[str, LogProbs]] = {}
    for source, roles in parts[0].items():
        joined[source] = {role: _concatenate([part[source][role] for part in parts], sizes) for role in roles}
    return joined


def _concatenate(parts: Sequence[LogProbs], sizes: Sequence[int]) -> LogProbs:
    width = max(part.values.shape[1] for part in parts)

    def join(values: Sequence[Tensor | None], fill: int = 0) -> Tensor | None:
        held = [v for v in values if v is not None]
        if not held:
            return None
        return torch.cat([F.pad(v, (0, width - v.shape[1]), value=fill) for v in held])

    def join_whole(values: Sequence[Tensor | None]) -> Tensor | None:
        held = [v for v in values if v is not None]
        if len({v.shape[1:] for v in held}) > 1:
            raise UserError(
                "heldout: this run compares whole predictions of all held-out rows, whose pictures or clips "
                "differ in size; give them one size"
            )
        return torch.cat(held) if held else None

    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    values, mask = join([p.values for p in parts]), join([p.mask for p in parts])
    assert values is not None and mask is not None
    return replace(
        parts[0],
        values=values,
        mask=mask,
        sample=torch.cat([part.sample + start for part, start in zip(parts, starts, strict=True)]),
        slot=torch.cat([part.slot for part in parts]),
        weights=join([part.weights for part in parts]),
        error=join([part.error for part in parts]),
        timestep=join([part.timestep for part in parts]),
        signal=join([part.signal for part in parts]),
        prediction=join_whole([part.prediction for part in parts]),
        target=join_whole([part.target for part in parts]),
        distribution=None,
        ids=join([part.ids for part in parts], -1),
    )
