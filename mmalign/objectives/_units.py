"""Shared by objectives that look at single units: segments of a clip, steps of a sampling path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.types import LogProbs, Scores, UserError


def unit_ratios(scores: Scores, role: str) -> Tensor:
    """Log-ratios policy / reference of every unit of one role, [S, K]; what the mask leaves out is 0."""
    ours = scores["policy"][role]
    return ours.unit_ratio(scores["reference"][role]).masked_fill(~ours.mask, 0.0)


def refuse_other_cut(seen: LogProbs, other: LogProbs, what: str, instead: str = ", or choose black") -> None:
    """Raise UserError naming `what` shows the other picture if answers were cut to another length under it,
    as it may take more places or fewer: log-ratios of unequal numbers of tokens are no comparison."""
    if seen.ids is not None and other.ids is not None:  # at hand without waiting for the device
        same = torch.equal((seen.ids >= 0).sum(-1), (other.ids >= 0).sum(-1))
    else:
        same = torch.equal(seen.length, other.length)
    if not same:
        raise UserError(
            f"{what}: an answer is cut to another length under the other picture, which takes another number "
            f"of tokens; raise model.max_length{instead}"
        )


def steps_above(scores: Scores, role: str, above: float) -> Tensor:
    """Steps of sampling paths that begin above a share of the noise schedule, [S, K] bool.

    Raises UserError where a path has none.
    """
    ours = scores["policy"][role]
    if above == 0:
        return ours.mask
    assert ours.timestep is not None, "steps of a path have a noise level"
    kept = ours.mask & (ours.timestep > above)
    if not bool(kept.any(-1).all()):
        raise UserError(
            f"objective.above: no step of a path begins above {above:g} of the noise schedule; lower it"
        )
    return kept


def step_ratios(scores: Scores, role: str, clip: float, steps: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Log-ratios of every denoising step held to [log(1 - clip), log(1 + clip)], [S, K], and the share of the
    steps (of those in `steps` [S, K], or of all) that the bounds hold, [S] detached. A held step has no
    gradient."""
    kept = scores["policy"][role].mask if steps is None else steps
    plain = unit_ratios(scores, role)
    held = plain.clamp(math.log1p(-clip), math.log1p(clip))
    outside = ((held != plain) & kept).to(plain.dtype).sum(-1)
    return held, (outside / kept.sum(-1)).detach()


def unit_labels(
    labels: Mapping[str, Any], name: str, mask: Tensor, allowed: Sequence[float] | None = None
) -> Tensor:
    """A label with one number per unit as [S, K], 0 where the mask is: lists, in the order of the units.

    Raises UserError where a list is not as long as its response has units, or holds a number not allowed.
    """
    here = mask.cpu()
    spread = torch.zeros(here.shape)
    counts = here.sum(-1).tolist()
    for index, (numbers, count) in enumerate(zip(labels[name], counts, strict=True)):
        where = f"{name}: sample {index} of the batch"
        if not isinstance(numbers, list | tuple) or len(numbers) != count:
            raise UserError(f"{where} needs a list of {count} numbers, one per unit, got {numbers}")
        if allowed is not None and not set(numbers) <= set(allowed):
            rule = ", ".join(f"{number:g}" for number in allowed)
            raise UserError(f"{where} must hold only {rule}, got {numbers}")
        spread[index, here[index]] = torch.tensor([float(number) for number in numbers])
    return spread.to(mask.device, non_blocking=True)


def mean_where(values: Tensor, kept: Tensor) -> Tensor:
    """Mean over the kept units of every sample, [S]; 0, with a gradient of 0, where none is kept."""
    chosen = torch.where(kept, values, torch.zeros_like(values))
    return chosen.sum(-1) / kept.sum(-1).clamp(min=1)


def share_where(flags: Tensor, kept: Tensor) -> Tensor:
    """Share of the kept units that are flagged, [S] detached; NaN where none is kept."""
    values = flags.detach().to(torch.get_default_dtype())
    return torch.where(kept.any(-1), mean_where(values, kept), torch.nan)
