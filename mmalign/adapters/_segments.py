"""Denoising errors of a clip by temporal segment, as DenseDPO (arXiv 2506.03517) compares them.

Letters: N rows, D noise draws, F latent frames, S segments of the row that has most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmalign.types import LogProbs, UserError


def segment_of(frames: int, count: int) -> list[int]:
    """For every latent frame the segment that holds its middle, where `count` segments of equal length divide
    the clip. None is empty; 5 frames in 2 segments are 2 and 3, and 3 in 2 are 1 and 2."""
    assert 1 <= count <= frames, f"{count} segments of {frames} latent frames"
    return [(2 * frame + 1) * count // (2 * frames) for frame in range(frames)]


def shares(frames: int, counts: Tensor) -> Tensor:
    """Weight of every latent frame in the mean of each segment, [N, S, F] float32, for the rows' numbers of
    segments [N]; 0 for segments that a row does not have."""
    held = torch.zeros(len(counts), int(counts.max()), frames)
    for row, count in enumerate(counts.tolist()):
        held[row, segment_of(frames, count), torch.arange(frames)] = 1.0
    return held / held.sum(-1, keepdim=True).clamp(min=1)


def num_segments(
    labels: Mapping[str, Any], configured: int | None, frames: int | None, where: str
) -> int | None:
    """How many segments a sample's clips have: as its label `segments` says, else as configured; None for
    neither. Raises UserError, starting with `where`, where the two differ, for pictures (`frames` None), and
    for more segments than latent frames."""
    label = labels.get("segments")
    if label is None:
        return configured
    if frames is None:
        raise UserError(f"{where}: label segments is of clips, and this model makes pictures; remove it")
    count = len(label)
    if configured is not None and count != configured:
        raise UserError(f"{where}: label segments has {count} numbers, model.segments is {configured}")
    if not 1 <= count <= frames:
        raise UserError(
            f"{where}: label segments has {count} numbers for {frames} latent frames; give at most that"
        )
    return count


def by_segment(
    scored: LogProbs, prediction: Tensor, target: Tensor, factors: Tensor, counts: Tensor
) -> LogProbs:
    """The scores of N rows with one unit per segment, mean over the draws of `scored` [N, D].

    `prediction` and `target` are [N * D, C, F, h, w]; `factors` [2, N, D] turn squared errors into
    surrogates and into the errors that are told; `counts` [N], on the CPU, are the rows' numbers of segments.
    """
    squares = (prediction.float() - target.float()).square().mean((1, 3, 4)).unflatten(0, scored.mask.shape)
    weights = shares(squares.shape[-1], counts).to(squares.device, non_blocking=True)
    # sums, no matrix product: autocast would take that in half precision
    held = (squares.unsqueeze(2) * weights.unsqueeze(1)).sum(-1)  # [N, D, S]
    values, error = ((factor.unsqueeze(-1) * held).sum(1) for factor in factors)
    mask = weights.any(-1)
    draws = squares.shape[1]
    timestep, signal = (
        None if told is None else told.mean(-1, keepdim=True).expand_as(mask)
        for told in (scored.timestep, scored.signal)
    )
    return LogProbs(
        values=values / draws,
        mask=mask,
        kind=scored.kind,
        unit="segment",
        sample=scored.sample,
        slot=scored.slot,
        error=error / draws,
        timestep=timestep,
        signal=signal,
    )
