"""Small videos with the number of every frame painted in, and how to read it back."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder's own lines on stderr
WIDTH, HEIGHT, BITS = 64, 48, 8


@dataclass(frozen=True)
class Kind:
    """A container and a codec, with options for several key frames, and for B-frames where it has them."""

    container: str
    codec: str
    options: Mapping[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"


_GROUPS = {"g": "12", "bf": "2"}
KINDS = {
    "h264": Kind("mp4", "libx264", {"preset": "ultrafast", **_GROUPS}),
    "h264 in matroska": Kind("matroska", "libx264", {"preset": "ultrafast", **_GROUPS}),
    "h264 in mpeg-ts": Kind("mpegts", "libx264", {"preset": "ultrafast", **_GROUPS}),
    "mpeg4": Kind("mp4", "mpeg4", _GROUPS),
    "mpeg4 in avi": Kind("avi", "mpeg4", _GROUPS),
    "hevc": Kind(
        "mp4", "libx265", {"preset": "ultrafast", "x265-params": "bframes=2:keyint=12:log-level=none:pools=1"}
    ),
    "vp9": Kind("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "12"}),
    "vp8": Kind("webm", "libvpx", {"g": "12"}),
    "av1": Kind("webm", "libsvtav1", {"preset": "11", "g": "12"}),
    "mpeg2": Kind("mpeg", "mpeg2video", _GROUPS),
    "flv": Kind("flv", "flv"),
    "wmv": Kind("asf", "wmv2"),
    "mjpeg": Kind("mov", "mjpeg", {}, "yuvj420p"),
    "gif": Kind("gif", "gif", {}, "rgb8"),
}


def can_write(kind: Kind) -> bool:
    """Whether this build of the library has the encoder."""
    try:
        av.codec.Codec(kind.codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def numbered(number: int) -> np.ndarray:
    """A picture [HEIGHT, WIDTH, 3] with a number in binary: one upright bar per bit, white for 1."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    step = WIDTH // BITS
    for bit in range(BITS):
        picture[:, bit * step : (bit + 1) * step] = 255 * (number >> bit & 1)
    return picture


def numbers(frames: Tensor) -> list[int]:
    """The numbers painted into frames [T, 3, HEIGHT, WIDTH]."""
    step = frames.shape[3] // BITS
    bars = frames[:, :, frames.shape[2] // 2, step // 2 :: step].float().mean(1) > 127
    return [sum(int(on) << bit for bit, on in enumerate(row)) for row in bars.tolist()]


def video(
    kind: Kind, count: int = 30, rate: int = 25, stamps: Sequence[int] | None = None, **options: str
) -> bytes:
    """A file of `count` numbered frames; `stamps`: their times in units of 1 / 100 s instead of even ones,
    and `options` are those of the container."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video"  # one container is written twice: first its data, then its index
        with av.open(path, "w", format=kind.container, options=options) as container:
            track = container.add_stream(kind.codec, rate=rate, options=dict(kind.options))
            track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, kind.pixels
            if stamps is not None:
                track.time_base = track.codec_context.time_base = Fraction(1, 100)
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
                if stamps is not None:
                    frame.pts, frame.time_base = stamps[number], Fraction(1, 100)
                container.mux(track.encode(frame))
            container.mux(track.encode())
        return path.read_bytes()
