"""Pictures between PIL and tensors: the one rule by which every picture of a run is made square."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign.types import Part, UserError

_MAX_RATIO = 10  # longer than this, a centre crop would keep less than a tenth of the picture
_MIN_SIDE = 8
_PER_FORWARD = 8  # pictures in one forward of the autoencoder


def picture_of(response: Sequence[Part], where: str) -> Image.Image:
    """The one decoded RGB picture of a response; UserError, starting with `where`, for anything else."""
    if len(response) != 1 or response[0].kind != "image":
        kinds = ", ".join(part.kind for part in response) or "nothing"
        raise UserError(f"{where}: response must be exactly one image, got {kinds}")
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


def square(picture: Image.Image, side: int) -> Tensor:
    """Shortest side resized to `side` (Lanczos), then the centre: uint8 [3, side, side]."""
    size, left, top = _placed(picture, side)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture = picture.crop((left, top, left + side, top + side))
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def time_ids(picture: Image.Image, side: int) -> Tensor:
    """Height and width before resizing, top and left of the crop `square` takes after it, height and width
    of the result, [6] float32: what a UNet conditioned on size is told (arXiv 2307.01952, section 2.2)."""
    _, left, top = _placed(picture, side)
    return torch.tensor([picture.height, picture.width, top, left, side, side], dtype=torch.float32)


def _placed(picture: Image.Image, side: int) -> tuple[tuple[int, int], int, int]:
    """Size after resizing, and left and top of the centre crop."""
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    return (width, height), (width - side) // 2, (height - side) // 2


def to_unit(pixels: Tensor) -> Tensor:
    """Bytes 0..255 to float32 -1..1, as the autoencoder takes them."""
    return pixels.float() / 127.5 - 1.0


@torch.no_grad()
def encode_pictures(
    vae: Any, pictures: Sequence[Tensor], device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Mean and log-variance of the latents of byte pictures [3, R, R], before scaling: two [C, h, w] on the
    CPU in float32. Every distinct picture runs once."""
    keys = [hashlib.blake2b(picture.numpy().tobytes(), digest_size=16).digest() for picture in pictures]
    distinct = list(dict(zip(keys, pictures, strict=True)).items())
    found: dict[bytes, tuple[Tensor, Tensor]] = {}
    for start in range(0, len(distinct), _PER_FORWARD):
        part = distinct[start : start + _PER_FORWARD]
        latents = vae.encode(to_unit(torch.stack([picture for _, picture in part]).to(device))).latent_dist
        for (key, _), mean, logvar in zip(part, latents.mean.cpu(), latents.logvar.cpu(), strict=True):
            found[key] = (mean.clone(), logvar.clone())
    return [found[key] for key in keys]


def to_picture(pixels: Tensor) -> Image.Image:
    """Float pixels [3, H, W] in 0..1 to an RGB picture."""
    values = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
