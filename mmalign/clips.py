"""Clips: the frames a model sees of a video, and the rule by which they are chosen.

One rule holds for every source, role and process, so that both sides of a pair see the same frames. The
resolved places and time stamps travel with the frames.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

_BY_RATE = ("fps", "leading")  # rules that read Frames.fps
ASSUMED_RATE = 24.0  # frames per second of a video that does not tell: an array, a header without rate


@dataclass(frozen=True)
class Clip:
    """Frames of one video, uint8 RGB [T, 3, H, W], upright.

    `indices` are their places among the source's frames in display order, `seconds` their time stamps counted
    from the source's first frame, `rate` the source's mean frames per second, `total` how many frames it has,
    `reader` who decoded it ("pyav", "decord", "pillow" for animated WebP, "folder" for a folder of frames, or
    "memory" for an array).
    """

    frames: Tensor
    indices: tuple[int, ...]
    seconds: tuple[float, ...]
    rate: float
    total: int
    reader: str

    def taken(self, places: Sequence[int]) -> Clip:
        """Some of the frames, each with its own place and time."""
        listed = list(places)
        indices = tuple(self.indices[place] for place in listed)
        seconds = tuple(self.seconds[place] for place in listed)
        return replace(self, frames=self.frames[listed], indices=indices, seconds=seconds)

    @property
    def sampled_rate(self) -> float:
        """Frames per second of what was kept: 1 / mean step; the source's own rate for a single frame."""
        span = self.seconds[-1] - self.seconds[0]
        return (len(self.seconds) - 1) / span if span > 0 else self.rate


@dataclass(frozen=True)
class Frames:
    """How frames are chosen from a video of N frames, and who decodes them.

    uniform: `count` frames from the first to the last, int(linspace(0, N - 1, count)); segment: the middles
    of `count` equal segments, int((i + 1/2) N / count); fps: every max(1, round(rate / fps))-th frame, and
    uniform where that would be more than `count`; leading: of those the first `count`, so that all clips run
    at one pace. A video with fewer frames than `count` gives each of its frames once, where the rule goes by
    the whole video.

    Reader pyav decodes every frame in order and is exact for every codec. decord takes H.264 and VP9
    in MP4/MOV and WebM/Matroska and leaves the rest to pyav. auto is pyav.
    """

    # rule that chooses frames: spread, by rate, from the middles of parts, or first ones by rate
    sampling: Literal["uniform", "fps", "segment", "leading"] = "uniform"
    count: int = 8  # frames of a clip, at most
    fps: float = 2.0  # frames a second, of fps and leading
    reader: Literal["auto", "pyav", "decord"] = "auto"  # who decodes; auto is pyav
    # pixels of a frame; larger ones are scaled down and keep their shape, which bounds the tokens of a clip
    # where the model reads native resolution; null: the processor's own rule alone
    scale_to: int | None = None
    max_pixels: int = 4096 * 2304  # of one frame as stored; larger ones are refused
    max_seconds: float = 14400.0  # longer videos are refused
    timeout_s: float = 120.0  # seconds for reading one video, in a worker process
    # folder that keeps chosen frames by the content of their clip, for all runs and processes; null: each use
    # decodes
    cache: str | None = None
    cache_gb: float = 20.0  # gigabytes that folder may take; the oldest go first

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count: must be 1 or more, got {self.count}")
        if self.scale_to is not None and self.scale_to < 1:
            raise ValueError(f"scale_to: must be 1 or more, got {self.scale_to}")
        for name in ("fps", "max_pixels", "max_seconds", "timeout_s", "cache_gb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")

    @property
    def pace(self) -> float | None:
        """Frames per second of what is chosen from any video that has so many; None: that depends on it."""
        return self.fps if self.sampling == "leading" else None

    def choose(self, total: int, rate: float) -> tuple[int, ...]:
        """Places of the chosen frames among `total` frames at `rate` per second, ascending."""
        if total < 1:
            raise ValueError(f"a video has at least one frame, got {total}")
        if self.sampling in _BY_RATE:
            places = tuple(range(0, total, max(1, round(rate / self.fps))))
            if len(places) <= self.count or self.sampling == "leading":
                return places[: self.count]
        if total <= self.count:
            return tuple(range(total))
        if self.sampling == "segment":
            return tuple(int((i + 0.5) * total / self.count) for i in range(self.count))
        if self.count == 1:
            return (0,)
        return tuple(i * (total - 1) // (self.count - 1) for i in range(self.count))

    def places(self, stamps: Sequence[float], rate: float) -> tuple[int, ...]:
        """Places of the chosen frames of a video: `stamps` are the times of all its frames, in seconds from
        the first on, `rate` their mean per second."""
        return self.choose(len(stamps), rate)

    def clip(
        self, pixels: Tensor, places: Sequence[int], stamps: Sequence[float], rate: float, reader: str
    ) -> Clip:
        """The clip of frames [T, 3, H, W] at `places`, of a video with these stamps and this rate."""
        chosen = tuple(stamps[place] for place in places)
        return Clip(pixels, tuple(places), chosen, rate, len(stamps), reader)

    def fingerprint(self) -> str:
        """Everything the chosen frames depend on: the rule, and the readers with their versions.

        Raises ValueError where a reader is not installed.
        """
        rule = f"{self.sampling} {self.count}" + (f" {self.fps:g}/s" if self.sampling in _BY_RATE else "")
        rule += f" within {self.scale_to}" if self.scale_to else ""
        readers = ("decord", "av") if self.reader == "decord" else ("av",)
        try:
            return " ".join([rule, *(f"{name}-{importlib.metadata.version(name)}" for name in readers)])
        except importlib.metadata.PackageNotFoundError as error:
            raise ValueError(f"reader: {error.name} is not installed") from None
