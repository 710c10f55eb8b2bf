"""What is left to the plain reader: videos that decord counts otherwise, or whose frames it replaces."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import KINDS, numbers, video

from mmalign.clips import Frames
from mmalign.data._video import decode_video
from mmalign.data._video_container import scan

decord = pytest.importorskip("decord", reason="decord is not installed (extra: video)")

DECORD = Frames(count=5, reader="decord")


def trimmed(data: bytes, hidden: int) -> bytes:
    """The same packets, of which a list of edits hides the first frames."""
    made = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(made, "w", format="mp4") as target:
        track = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                back = int(hidden * Fraction(1, 25) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - back, packet.dts - back, track
                target.mux(packet)
    return made.getvalue()


def test_a_video_that_it_counts_otherwise() -> None:
    data = trimmed(video(KINDS["h264"], 40), 6)
    header = scan(data, DECORD)
    counted = len(decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1))
    assert (header.total, counted) == (34, 40)
    clip = decode_video(data, DECORD)
    assert clip.reader == "pyav" and numbers(clip.frames) == [6, 14, 22, 30, 39]
    assert clip.indices == (0, 8, 16, 24, 33) and clip.total == 34


def test_frames_that_it_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that cannot decode two frames: as its own documents say, it gives others in their place, and
    tells only above the number that `fault_tol` allows."""

    class Replacing(decord.VideoReader):
        def __init__(self, file: io.BytesIO, fault_tol: int = -1, **options: object) -> None:
            super().__init__(file, fault_tol=fault_tol, **options)
            self.allowed = fault_tol

        def get_batch(self, places: list[int]) -> object:
            if 0 <= self.allowed < 2:
                raise decord.DECORDLimitReachedError("recovered 2 frames")
            frames = super().get_batch(places).asnumpy()
            return decord.ndarray.array(np.concatenate([frames[:-2], frames[:2]]))

    monkeypatch.setattr(decord, "VideoReader", Replacing)
    clip = decode_video(video(KINDS["h264"], 40), DECORD)
    assert numbers(clip.frames) == [0, 9, 19, 29, 39] and clip.reader == "pyav"
