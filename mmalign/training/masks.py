"""Whether a row's mask lies over its pictures as the model gets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmalign.config import RunConfig
from mmalign.types import Adapter, Clip, PreferenceSample, UserError

_CROPPED = 0.02  # share of a side that may be cut off


def check_masks(config: RunConfig, fields: Sequence[str]) -> None:
    """Raise UserError where pictures would be changed and their masks would not, or where a transform stands
    before region_mask, which computes errors anew."""
    if "mask" not in fields:
        return
    if getattr(config.model, "flip", False):  # an adapter of the user's own may have none
        raise UserError("model.flip: mirrors pictures and not the label mask of region_mask; set it to false")
    if any("mask" in transform.fields for transform in config.transforms[1:]):
        raise UserError("transforms: region_mask computes errors anew and must stand first")


def check_mask(adapter: Adapter, roles: Sequence[str], sample: PreferenceSample) -> None:
    """Raise UserError, naming the row, if a picture or clip of the roles loses an edge on its way to the
    latents: the row's mask would lie elsewhere. Media are decoded."""
    if "mask" not in sample.labels:
        return
    height, width = adapter.shape_of(adapter.prepare(sample, roles))[-2:]
    for role in roles:
        for part in (part for example in sample.examples[role] for part in example.response):
            if part.kind == "text":
                continue
            own = _size(part.data)
            lost = 1 - min(own[0] * height, own[1] * width) / max(own[0] * height, own[1] * width)
            if lost > _CROPPED:
                raise UserError(
                    f"{sample.origin}: {role} of {own[0]} x {own[1]} loses its edges at {width} x {height}, "
                    "and its label mask would not fit; crop both before, to the proportions of the model"
                )


def _size(medium: Any) -> tuple[int, int]:
    """Width and height."""
    if isinstance(medium, Clip):
        return int(medium.frames.shape[-1]), int(medium.frames.shape[-2])
    width, height = medium.size
    return int(width), int(height)
