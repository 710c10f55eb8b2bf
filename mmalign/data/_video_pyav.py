"""Frames by PyAV: every frame is decoded, in display order, and the chosen ones are kept.

Seeking is avoided: with B-frames of MPEG-4 and HEVC it lands on neighbours of the wanted frame.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from mmalign.clips import Clip, Frames
from mmalign.data._video_container import MISSING, Header, clock, open_video, reason
from mmalign.types import UserError

_LEAST_SHARE = {"vp8": 0.0}  # of its packets, some may be reference frames that are never shown
_REMEDY = "fetch it again or leave the row out"


def read(data: bytes, header: Header, frames: Frames) -> Clip:
    """The chosen frames of a video of which `header` was read.

    Usually decodes once. Where decoding gives another number of frames than the packets promised (hidden
    frames, several frames in one packet) the choice is made anew from that number, and decoded again if it
    differs. Raises UserError, with the number of readable frames, if decoding stops early or gives far fewer
    frames than packets, and for a chosen frame that the decoder marks as damaged.
    """
    stamps, rate = header.stamps, header.rate
    places = frames.places(stamps, rate)
    kept, raw = _walk(data, header, frames, places)
    if len(raw) != len(stamps):
        stamps, rate = clock(raw, header.rate)
        if (anew := frames.places(stamps, rate)) != places:
            places = anew
            kept, _ = _walk(data, header, frames, places)
    if len({frame.shape for frame in kept.values()}) > 1:
        sizes = " and ".join(sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in kept.values()}))
        raise UserError(f"its picture size changes on the way ({sizes}); convert it to one size")
    pictures = torch.from_numpy(np.stack([kept[place] for place in places]))
    return frames.clip(pictures.permute(0, 3, 1, 2).contiguous(), places, stamps, rate, "pyav")


def _walk(
    data: bytes, header: Header, frames: Frames, places: Collection[int]
) -> tuple[dict[int, np.ndarray], list[float | None]]:
    """The upright frames [H, W, 3] at `places`, and the time stamps of all frames that were decoded."""
    import av
    import av.video.reformatter

    wanted = frozenset(places)
    kept: dict[int, np.ndarray] = {}
    stamps: list[float | None] = []
    container, stream = open_video(data, header.kind, frames)
    converter = av.video.reformatter.VideoReformatter()
    with container:
        try:
            for frame in container.decode(stream):
                if len(stamps) in wanted:
                    if frame.is_corrupt:
                        raise UserError(f"damaged: frame {len(stamps)} cannot be restored; {_REMEDY}")
                    kept[len(stamps)] = upright(_rgb(frame, converter), frame.rotation)
                stamps.append(frame.time)
        except UserError:
            raise
        except (av.FFmpegError, ValueError) as error:
            sound = f"{len(stamps)} of {header.total} frames"
            raise UserError(f"damaged: {sound} can be read, then {reason(error)!r}; {_REMEDY}") from None
    share = _LEAST_SHARE.get(header.codec, 1 - MISSING)
    if len(stamps) <= share * header.total:
        raise UserError(f"damaged: {len(stamps)} of {header.total} frames can be read; {_REMEDY}")
    return kept, stamps


def _rgb(frame: Any, converter: Any) -> np.ndarray:
    """RGB [H, W, 3] uint8; transparency is laid on white as in pictures."""
    clear = any(component.is_alpha for component in frame.format.components)
    # One thread: a converter with threads hangs where it is freed in a forked process.
    picture = converter.reformat(frame, format="rgba" if clear else "rgb24", threads=1).to_ndarray()
    if not clear:
        return picture
    values = picture.astype(np.uint16)
    share = values[..., 3:]
    return ((values[..., :3] * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)


def upright(picture: np.ndarray, rotation: int) -> np.ndarray:
    """The picture [H, W, 3] turned counterclockwise by `rotation` degrees, to the nearest quarter turn."""
    return np.ascontiguousarray(np.rot90(picture, round(rotation / 90)))
