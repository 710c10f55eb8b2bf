"""Decoding of videos: whatever a row gave as a video -> a `Clip` of the frames that a rule chooses.

Rules, the same for every source and reader: frames are counted and taken in display order; flags for quarter
turns are applied, those for mirroring are not; transparency is laid on white (an alpha channel beside the
pictures, as VP9 has it, is not read); pixels are taken as square; sound is not decoded. A video that is
damaged or cut off, as far as its decoder or its header's duration tell, is refused, never used in part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmalign.clips import ASSUMED_RATE, Clip, Frames
from mmalign.data import _video_decord, _video_pyav, _video_webp
from mmalign.data._paths import File, read_file
from mmalign.data._video_container import scan
from mmalign.types import UserError

_PLAYLISTS = (".m3u8", ".m3u", ".pls", ".ffconcat", ".concat", ".txt", ".sdp", ".mpd", ".xspf", ".asx")


def decode_video(data: Any, frames: Frames) -> Clip:
    """The chosen frames of a video: a File, bytes, a Clip, or a uint8 array or tensor [T, H, W, 3] or
    [T, 3, H, W], which counts as ASSUMED_RATE frames per second.

    Of a Clip the frames are chosen by the same rule, if it has more than `frames.count`, at the rate it was
    sampled at; places, time stamps and total stay those of its source. Frames of more pixels than
    `frames.scale_to` are scaled down, bilinear with antialiasing. Raises UserError with the rule that was
    broken.
    """
    return _scaled(_decoded(data, frames), frames.scale_to)


def _decoded(data: Any, frames: Frames) -> Clip:
    if isinstance(data, File):
        refuse_playlist(data)
        data = read_file(data)
    if isinstance(data, bytes):
        return _from_bytes(data, frames)
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(np.ascontiguousarray(data))
    if isinstance(data, Tensor):
        data = _from_array(data)
    if isinstance(data, Clip):
        _check_clip(data, frames)
        return _thin(data, frames)
    kind = type(data).__name__
    raise UserError(f"a video must be a file, bytes, a Clip or an array [T, H, W, 3], got {kind}")


def refuse_playlist(file: File) -> None:
    """Raise UserError for a name with the ending of a playlist, whatever the file holds."""
    if file.name.lower().endswith(_PLAYLISTS):
        raise UserError("a playlist, which leads to other files; name the video itself")


def _from_bytes(data: bytes, frames: Frames) -> Clip:
    if _video_webp.is_animation(data):
        return _video_webp.read(data, frames)
    header = scan(data, frames)
    if frames.reader == "decord":
        clip = _video_decord.read(data, header, frames)
        if clip is not None:
            return clip
    return _video_pyav.read(data, header, frames)


def _from_array(array: Tensor) -> Clip:
    shape = list(array.shape)
    if array.ndim != 4 or 3 not in (shape[3], shape[1]):
        raise UserError(f"an array must be [T, H, W, 3] or [T, 3, H, W], got shape {shape}")
    if array.dtype != torch.uint8:
        raise UserError(f"an array must hold 8-bit values, got {str(array.dtype).removeprefix('torch.')}")
    frames = array.permute(0, 3, 1, 2) if shape[3] == 3 else array
    places = tuple(range(shape[0]))
    seconds = tuple(place / ASSUMED_RATE for place in places)
    return Clip(frames.contiguous(), places, seconds, ASSUMED_RATE, shape[0], "memory")


def _check_clip(clip: Clip, frames: Frames) -> None:
    shape = list(clip.frames.shape)
    if clip.frames.ndim != 4 or shape[1] != 3 or clip.frames.dtype != torch.uint8:
        raise UserError(f"a Clip holds uint8 frames [T, 3, H, W], got {clip.frames.dtype} {shape}")
    if 0 in shape:
        raise UserError(f"a Clip of shape {shape} holds no frame")
    if not len(clip.indices) == len(clip.seconds) == shape[0]:
        raise UserError(
            f"a Clip of {shape[0]} frames has {len(clip.indices)} places and {len(clip.seconds)} time stamps"
        )
    if not (_ascends(clip.indices) and clip.indices[0] >= 0 and clip.indices[-1] < clip.total):
        raise UserError(f"a Clip's places must ascend within its {clip.total} frames")
    if not _ascends(clip.seconds) or not clip.rate > 0:
        raise UserError("a Clip's time stamps must ascend and its rate must be above 0")
    if shape[2] * shape[3] > frames.max_pixels:
        raise UserError(
            f"{shape[3]}x{shape[2]} is more than model.frames.max_pixels {frames.max_pixels}; make it smaller"
        )


def _ascends(values: Sequence[float]) -> bool:
    return all(earlier < later for earlier, later in zip(values, values[1:], strict=False))


def _scaled(clip: Clip, pixels: int | None) -> Clip:
    height, width = clip.frames.shape[2:]
    if pixels is None or height * width <= pixels:
        return clip
    factor = math.sqrt(pixels / (height * width))
    size = [max(1, int(height * factor)), max(1, int(width * factor))]
    small = torch.nn.functional.interpolate(clip.frames, size, mode="bilinear", antialias=True)
    return replace(clip, frames=small)


def _thin(clip: Clip, frames: Frames) -> Clip:
    if len(clip.indices) <= frames.count:
        return clip
    return clip.taken(frames.choose(len(clip.indices), clip.sampled_rate))
