"""The container of a video: its kind, what its header says, and whether all of its data are there.

A dataset is data, not trusted code. The kind is read off the first bytes; only the kinds and codecs listed
here are opened, each by its own demuxer and from memory, so that no playlist and no reference inside a file
leads to another file or to the network.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from mmalign.clips import ASSUMED_RATE, Frames
from mmalign.types import UserError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_FRAMES = 1_000_000  # of one video, above 4 hours at 60 per second
# A header's duration may be off by some rounding or a stray stamp; more than this share missing is a cut.
MISSING = 0.1

_MARKS = (  # demuxer, place of the mark, mark
    *(("mov", 4, mark) for mark in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    ("matroska", 0, b"\x1a\x45\xdf\xa3"),
    ("gif", 0, b"GIF87a"),
    ("gif", 0, b"GIF89a"),
    ("avi", 8, b"AVI "),
    ("mpeg", 0, b"\x00\x00\x01\xba"),
    ("flv", 0, b"FLV\x01"),
    ("asf", 0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
)
_KINDS = "MP4/MOV, WebM/Matroska, AVI, GIF, MPEG-TS, MPEG-PS, FLV, WMV, animated WebP"
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"file ", b"[playlist]", b"<?xml", b"<MPD", b"v=0", b"#EXTINF")
_STILLS = (
    (0, b"\x89PNG"),
    (0, b"\xff\xd8\xff"),
    (0, b"BM"),
    (8, b"WEBP"),
    (8, b"avif"),
    (8, b"heic"),
    (8, b"mif1"),
)
# A short list on purpose: rarely used decoders are rarely checked.
CODECS = frozenset({
    "av1", "dnxhd", "ffv1", "flv1", "gif", "h263", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video",
    "mpeg4", "msmpeg4v2", "msmpeg4v3", "png", "prores", "rawvideo", "vc1", "vp8", "vp9", "wmv1", "wmv2",
    "wmv3",
})  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What is known of a video before a picture is decoded.

    `stamps`: time stamps of its frames in display order, in seconds from the first on, one for every packet
    that is to be shown; `rate`: mean frames per second.
    """

    kind: str
    codec: str
    width: int
    height: int
    stamps: tuple[float, ...]
    rate: float

    @property
    def total(self) -> int:
        """Frames that the packets promise; decoding decides."""
        return len(self.stamps)


def kind_of(data: bytes) -> str:
    """The demuxer for a file's first bytes; UserError for playlists, still pictures and unknown kinds."""
    if not data:
        raise UserError("the file is empty")
    for place, mark in _STILLS:
        if data[place : place + len(mark)] == mark:
            raise UserError("a still picture, not a video")
    for kind, place, mark in _MARKS:
        if data[place : place + len(mark)] == mark:
            return kind
    if len(data) > 376 and data[0] == data[188] == data[376] == 0x47:
        return "mpegts"
    if data[:256].lstrip(b"\xef\xbb\xbf \r\n\t").startswith(_PLAYLISTS):
        raise UserError("a playlist, which leads to other files; name the video itself")
    if data.startswith((b"RIFF", b"ID3", b"fLaC", b"OggS", b"\xff\xfb")):
        raise UserError(f"no video in it, or of an unknown kind; known: {_KINDS}")
    raise UserError(f"not a video (it starts with {data[:16].decode('latin-1').strip()!r}); known: {_KINDS}")


def open_video(data: bytes, kind: str, frames: Frames) -> tuple[InputContainer, VideoStream]:
    """The container and its main stream of pictures, to be decoded by one thread; sound is left alone.

    Raises UserError where there is no such stream, or one of an unknown codec or above the pixel limit.
    """
    import av

    try:
        options = {"protocol_whitelist": "none"}
        container = av.open(io.BytesIO(data), format=kind, options=options, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"cannot be opened ({reason(error)}): damaged or cut off") from None
    try:
        stream = container.streams.best("video")
        if stream is None or bool(stream.disposition & av.stream.Disposition.attached_pic):
            raise UserError("no video in it, only other streams")
        if stream.codec_context is None:
            raise UserError("its codec is unknown: damaged, or to be converted to H.264")
        if (codec := stream.codec_context.codec.canonical_name) not in CODECS:
            raise UserError(f"its codec is {codec}; convert it to H.264 (known: {', '.join(sorted(CODECS))})")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width < 1 or height < 1:
            raise UserError("its header gives no picture size: damaged or cut off")
        if width * height > frames.max_pixels:
            raise UserError(
                f"{width}x{height} is more than model.frames.max_pixels {frames.max_pixels}; make it smaller"
            )
        stream.codec_context.options = {"max_pixels": str(frames.max_pixels)}  # holds inside the stream too
        stream.codec_context.thread_count = 1
        stream.thread_type = "NONE"
    except BaseException:
        container.close()
        raise
    return container, stream


def scan(data: bytes, frames: Frames) -> Header:
    """Read every packet, decode none.

    Raises UserError for a file that `open_video` refuses, one longer than `frames.max_seconds`, and one whose
    data end before the time its header promises.
    """
    import av

    kind = kind_of(data)
    container, stream = open_video(data, kind, frames)
    shown: list[float | None] = []
    ends: dict[int, float] = {}
    damaged = False
    with container:
        whole = (container.duration or 0) / av.time_base
        check_seconds(whole, frames)
        try:
            for packet in container.demux():
                if not packet.size or packet.stream.type not in ("video", "audio"):
                    continue
                index, stamp = packet.stream.index, packet.pts
                if stamp is not None and packet.time_base is not None:
                    end = float((stamp + (packet.duration or 0)) * packet.time_base)
                    ends[index] = max(ends.get(index, end), end)
                if index == stream.index and not packet.is_discard:
                    damaged = damaged or packet.is_corrupt
                    shown.append(None if stamp is None else float(stamp * packet.time_base))
                    if len(shown) > MAX_FRAMES:
                        raise UserError(f"more than {MAX_FRAMES} frames; cut the video into pieces")
        except UserError:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise UserError(f"its data are damaged after {len(shown)} frames: {reason(error)}") from None
        if not shown:
            raise UserError("holds no frame")
        start = (container.start_time or 0) / av.time_base
        _check_whole(whole, max(ends.values(), default=start) - start, len(shown), damaged)
        if stream.duration and stream.time_base and stream.index in ends:
            first = (stream.start_time or 0) * stream.time_base
            own = float(stream.duration * stream.time_base)
            _check_whole(own, ends[stream.index] - float(first), len(shown), damaged)
        stated = float(stream.average_rate or stream.guessed_rate or 0)
        codec = stream.codec_context
        placed = sorted(one for one in shown if one is not None)
        stamps, rate = clock(placed if len(placed) == len(shown) else shown, stated)
        check_seconds(stamps[-1], frames)
        return Header(kind, codec.codec.canonical_name, codec.width, codec.height, stamps, rate)


def clock(raw: Sequence[float | None], stated: float) -> tuple[tuple[float, ...], float]:
    """Time stamps from the first frame on, and the mean rate in frames per second.

    The header's rate (0: none) stands if it is within 1 % of the mean that the stamps give: some containers
    round stamps. Stamps that are missing or do not ascend are replaced by places over the header's rate, or
    over ASSUMED_RATE.
    """
    known = [stamp for stamp in raw if stamp is not None]
    if len(known) < len(raw) or any(later <= earlier for earlier, later in pairwise(known)):
        rate = stated if stated > 0 else ASSUMED_RATE
        return tuple(place / rate for place in range(len(raw))), rate
    stamps = tuple(round(stamp - known[0], 6) for stamp in known)
    if len(stamps) == 1:
        return stamps, stated if stated > 0 else ASSUMED_RATE
    mean = (len(stamps) - 1) / stamps[-1]
    return stamps, stated if abs(stated - mean) <= 0.01 * mean else mean


def check_seconds(seconds: float, frames: Frames) -> None:
    """Raise UserError for a video that is longer than the frames' rule allows."""
    if seconds > frames.max_seconds:
        raise UserError(
            f"{seconds:.0f} s long; model.frames.max_seconds is {frames.max_seconds:g}; cut it or raise that"
        )


def _check_whole(promised: float, reached: float, count: int, damaged: bool) -> None:
    """Both in seconds; a header that promises nothing (0), or less than there is, is not held against it."""
    if damaged or promised - reached > MISSING * promised:
        raise UserError(
            f"cut off: its data hold {count} frames and end at {reached:.2f} s, its header promises "
            f"{promised:.2f} s; fetch it again or leave the row out"
        )


def reason(error: Exception) -> str:
    """The cause in one line, without the number and the name of a call."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
