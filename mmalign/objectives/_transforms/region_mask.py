"""Region masks: denoising errors count only where the two pictures are to be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmalign.types import AllMean, Changed, LogProbs, Scores, Transform, UserError


@dataclass(frozen=True)
class RegionMask(Transform):
    """Weights M over the picture inside every denoising error, e = mean(M (prediction - target)^2) with the
    mean of M at 1, as regional variants of Diffusion-DPO (arXiv 2311.12908) do.

    M is the row's label `mask`, a list of lines of numbers, 0 or more, of any size: averaged or repeated to
    the latents' height and width, it holds for every response of the row, every channel and frame, the policy
    and the reference. With M of zeros and ones the error is the mean over the ones, so that betas keep their
    size however small the region is.
    """

    needs = frozenset({"prediction"})
    fields = ("mask",)

    def __call__(self, scores: Scores, labels: Mapping[str, Any], all_mean: AllMean) -> Changed:
        """Scores with errors and values of the weighted squares. Raises UserError for a mask of zeros, with
        numbers below 0, or that is no rectangle."""
        masks = [_mask(mask, index) for index, mask in enumerate(labels["mask"])]
        sizes = {}
        for side in (side for roles in scores.values() for side in roles.values()):
            if side.prediction is None or side.target is None:
                raise ValueError("region_mask: these scores carry no predictions")
            size = (side.prediction.shape[-2], side.prediction.shape[-1])
            if size not in sizes:
                sizes[size] = _resized(masks, size).to(side.prediction)
        return Changed(
            {
                source: {r: _weighted(side, sizes) for r, side in roles.items()}
                for source, roles in scores.items()
            }
        )


def _mask(mask: Any, index: int) -> Tensor:
    try:
        read = torch.as_tensor(mask, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError) as error:
        raise UserError(f"mask: sample {index} of the batch needs lines of equally many numbers") from error
    if read.ndim != 2 or not read.numel():
        raise UserError(
            f"mask: sample {index} of the batch needs lines of numbers, got shape {tuple(read.shape)}"
        )
    if not (torch.isfinite(read).all() and (read >= 0).all() and read.any()):
        raise UserError(f"mask: sample {index} of the batch must hold numbers of 0 or more, and not only 0")
    return read


def _resized(masks: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Masks [h, w] each as [S, 1, height, width], averaged over what falls on a cell, with mean 1."""
    cells = torch.cat([F.adaptive_avg_pool2d(mask[None, None], size) for mask in masks])
    return cells / cells.mean((-2, -1), keepdim=True)


def _weighted(side: LogProbs, sizes: Mapping[tuple[int, int], Tensor]) -> LogProbs:
    """The side with prediction and target times the root of M, and the error of those."""
    assert side.prediction is not None and side.target is not None and side.error is not None
    height, width = side.prediction.shape[-2:]
    mask = sizes[height, width][side.sample.to(sizes[height, width].device)]
    root = mask.sqrt().reshape(len(mask), *[1] * (side.prediction.ndim - 3), height, width)
    prediction, target = root * side.prediction, root * side.target
    error = (prediction - target).square().flatten(2).mean(-1)
    # values are -w / 2 times the error, and w stays; an error of 0 has a new one of 0 too
    known = side.error.detach() > 0
    ratio = side.values.detach() / torch.where(known, side.error.detach(), torch.ones_like(error))
    values = torch.where(known, ratio, -0.5 * torch.ones_like(ratio)) * error
    return replace(side, values=values, error=error, prediction=prediction, target=target)
