"""Frames by decord, which jumps to the wanted frames: faster on long clips, for the codecs where it is exact.

With B-frames of MPEG-4 and HEVC, and with H.264 in MPEG-TS, decord returns neighbours of the wanted frame
without a word, and AV1 it does not open; only H.264 and VP9 in MP4/MOV and WebM/Matroska are left to it. It
does not look at what lies behind the last wanted frame, so damage there goes unnoticed, and so does damage
that its decoder covers up, where neighbours may come in the place of wanted frames.
"""

from __future__ import annotations

import importlib.util
import io

import torch

from mmalign.clips import Clip, Frames
from mmalign.data._video_container import Header
from mmalign.types import UserError

CODECS = frozenset({"h264", "vp9"})
KINDS = frozenset({"mov", "matroska"})


def require_decord() -> None:
    """Raise UserError where decord is not installed."""
    if importlib.util.find_spec("decord") is None:
        raise UserError(
            "model.frames.reader decord is not installed; pip install 'mmalign[video]' (Linux x86-64 and "
            "Windows only), or choose pyav"
        )


def read(data: bytes, header: Header, frames: Frames) -> Clip | None:
    """The chosen frames, or None for a video that is better left to the plain reader.

    That is one of another codec or kind, one that decord cannot read or counts differently than its packets
    say, and one whose frames come out in another size than the header's.
    """
    require_decord()
    if header.codec not in CODECS or header.kind not in KINDS:
        return None
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    places = frames.places(header.stamps, header.rate)
    try:
        # without fault_tol, frames that it cannot decode are others without a word
        # a reader for this one call: one that is kept leaks, and hangs in forked processes
        reader = decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1, fault_tol=1)
        if len(reader) != header.total:
            return None
        pictures = torch.from_numpy(reader.get_batch(list(places)).asnumpy().copy())
    except (RuntimeError, IndexError, decord.DECORDError, decord.DECORDLimitReachedError):
        return None
    sides = sorted((header.width, header.height))
    if pictures.ndim != 4 or pictures.shape[3] != 3 or sorted(pictures.shape[1:3]) != sides:
        return None
    pixels = pictures.permute(0, 3, 1, 2).contiguous()
    return frames.clip(pixels, places, header.stamps, header.rate, "decord")
