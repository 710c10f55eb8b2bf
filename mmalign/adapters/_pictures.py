"""Pictures between PIL and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign.adapters._buckets import Frame
from mmalign.messages import is_media, kind_of
from mmalign.types import Part, UserError

_MAX_RATIO = 10  # longer than this, a centre crop would keep less than a tenth of the picture
_MIN_SIDE = 8


def picture_of(response: Sequence[Part], where: str) -> Image.Image:
    """The one decoded RGB picture of a response; UserError, starting with `where`, for anything else."""
    require_one(response, "image", where)
    picture = response[0].data
    if not isinstance(picture, Image.Image) or picture.mode != "RGB":
        found = picture.mode if isinstance(picture, Image.Image) else type(picture).__name__
        raise UserError(f"{where}: image must be decoded to RGB first, got {found}")
    short, long = sorted(picture.size)
    if short < _MIN_SIDE or long > _MAX_RATIO * short:
        raise UserError(
            f"{where}: image must have sides of {_MIN_SIDE} pixels or more and at most {_MAX_RATIO}:1, got "
            f"{picture.width} x {picture.height}; leave the row out or crop the image"
        )
    return picture


def require_one(response: Sequence[Part], kind: Literal["image", "video"], where: str) -> None:
    """Raise UserError, starting with `where`, unless a response is one medium of this kind; a text that names
    a file is told how to be one."""
    if len(response) == 1 and response[0].kind == kind:
        return
    kinds = ", ".join(part.kind for part in response) or "nothing"
    line = f"{where}: response must be exactly one {kind}, got {kinds}"
    alone = response[0].data if len(response) == 1 and response[0].kind == "text" else ""
    if is_media(alone.strip()):
        line += f"""; give {{"{kind_of(alone.strip())}": "{alone.strip()[:80]}"}} in place of the bare text"""
    raise UserError(line)


def fitted(picture: Image.Image, frame: Frame, flip: bool = False) -> Tensor:
    """What a frame keeps of its picture, resized by Lanczos: uint8 [3, H, W]. With `flip` the picture is
    mirrored before, left to right: what it is told of size and place stays true of it."""
    assert picture.size == frame.original, f"a frame for {frame.original} and a picture of {picture.size}"
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if frame.resized != picture.size:
        picture = picture.resize(frame.resized, Image.Resampling.LANCZOS)
    (width, height), left, top = frame.size, frame.left, frame.top
    picture = picture.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def to_unit(pixels: Tensor) -> Tensor:
    """Bytes 0..255 to float32 -1..1, as the autoencoder takes them."""
    return pixels.float() / 127.5 - 1.0


def to_picture(pixels: Tensor) -> Image.Image:
    """Float pixels [3, H, W] in 0..1 to an RGB picture."""
    values = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
