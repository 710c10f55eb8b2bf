"""Parts of videos: the frames between two times of a file, as a clip of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from mmalign.clips import Clip, Frames
from mmalign.data._paths import File, RatedFile
from mmalign.types import UserError


@dataclass(frozen=True)
class CutFile(File):
    """A video of which only the part from `start` to `end` counts, in seconds from its first frame (None: to
    its last). `rate` is that of a folder of frames, None where it is not known."""

    start: float = 0.0
    end: float | None = None
    rate: float | None = None

    @property
    def whole(self) -> File:
        """The file with all its frames."""
        return File(self.root, self.name) if self.rate is None else RatedFile(self.root, self.name, self.rate)


@dataclass(frozen=True)
class CutFrames(Frames):
    """The rule `Frames` on a part's frames alone, as far as there are so many; the clip is one of its own,
    whose places and times count from the part's first frame.

    Where frames come evenly these are the ones from round(start * rate) to round(end * rate). Elsewhere their
    stamps decide: they are those on display from `start` to `end`, at their own mean rate.
    """

    start: float = 0.0
    end: float | None = None

    def places(self, stamps: Sequence[float], rate: float) -> tuple[int, ...]:
        """Places among all frames of the video."""
        part = self._part(stamps, rate)
        return tuple(part.first + place for place in self.choose(part.frames, part.rate))

    def clip(
        self, pixels: Tensor, places: Sequence[int], stamps: Sequence[float], rate: float, reader: str
    ) -> Clip:
        """The clip as one of its own."""
        part = self._part(stamps, rate)
        clip = super().clip(pixels, places, stamps, part.rate, reader)
        begin = min(part.begin, clip.seconds[0])
        return replace(
            clip,
            indices=tuple(place - part.first for place in clip.indices),
            seconds=tuple(second - begin for second in clip.seconds),
            total=part.frames,
        )

    def fingerprint(self) -> str:
        """The rule, the readers, and the part."""
        return f"{super().fingerprint()} part from {self.start!r} to {self.end!r}"

    def _part(self, stamps: Sequence[float], rate: float) -> _Part:
        """Raises UserError for a part behind the video's end."""
        even = _is_even(stamps, rate)
        length = len(stamps) / rate if even else stamps[-1] + _last_stays(stamps, rate)
        first = round(self.start * rate) if even else _shown_at(self.start, stamps, rate)
        if first >= len(stamps) or (not even and self.start >= length):
            raise UserError(f"its part starts at {self.start:g} s, and it has {length:.1f} s")
        last = len(stamps) - 1
        if self.end is not None:
            last = min(round(self.end * rate) if even else _shown_at(self.end, stamps, rate), last)
        last = max(first, last)
        frames, span = last - first + 1, stamps[last] - stamps[first]
        if even:
            return _Part(first, frames, first / rate, rate)
        own = rate if frames in (1, len(stamps)) else (frames - 1) / span
        return _Part(first, frames, stamps[first], own)


class _Part(NamedTuple):
    """The first frame, how many there are, when the first begins, and their mean rate."""

    first: int
    frames: int
    begin: float
    rate: float


def _is_even(stamps: Sequence[float], rate: float) -> bool:
    """Whether no frame stands more than half a step from its place at the mean rate."""
    return all(abs(stamp * rate - place) <= 0.5 for place, stamp in enumerate(stamps))


def _shown_at(second: float, stamps: Sequence[float], rate: float) -> int:
    """The frame on display at a time; or the next one, where that begins within half a step: of the mean ones
    and of this one."""
    place = max(bisect_right(stamps, second) - 1, 0)
    if place + 1 == len(stamps):
        return place
    step = min(1 / rate, stamps[place + 1] - stamps[place])
    return place + (stamps[place + 1] - second < step / 2)


def _last_stays(stamps: Sequence[float], rate: float) -> float:
    """How long the last frame is taken to stay: as long as the one before it, at least a mean step."""
    return max(1 / rate, stamps[-1] - stamps[-2])


def within(frames: Frames, file: CutFile) -> CutFrames:
    """The rule for the part that a file names."""
    return CutFrames(**vars(frames), start=file.start, end=file.end)
