"""The one clip that a response is, as frames of the size a denoiser works at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from mmalign.adapters._buckets import Frame
from mmalign.adapters._pictures import fitted, require_one
from mmalign.types import Clip, Part, UserError


def clip_of(response: Sequence[Part], num_frames: int, where: str) -> Clip:
    """The one decoded clip of a response, of exactly `num_frames` frames; UserError, starting with `where`,
    for anything else: a clip that is too short is never stretched or repeated."""
    require_one(response, "video", where)
    clip = response[0].data
    if not isinstance(clip, Clip):
        raise UserError(f"{where}: video must be decoded first, got {type(clip).__name__}")
    if len(clip.frames) != num_frames:
        raise UserError(
            f"{where}: video gives {len(clip.frames)} frames ({clip.total} in all), the model is trained on "
            f"{num_frames}; leave the row out, or lower model.frames.count"
        )
    return clip


def clip_pixels(clip: Clip, frame: Frame) -> Tensor:
    """Every picture of the clip as `fitted` makes one, uint8 [F, 3, H, W]."""
    pictures = (Image.fromarray(one.permute(1, 2, 0).numpy()) for one in clip.frames)
    return torch.stack([fitted(picture, frame) for picture in pictures])
