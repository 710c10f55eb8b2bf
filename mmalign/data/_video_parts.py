"""Parts of videos: the frames between two times of a file, as a clip of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    """The rule `Frames` on a part's frames alone: those from round(start * rate) to round(end * rate), as far
    as there are so many."""

    start: float = 0.0
    end: float | None = None

    def span(self, total: int, rate: float) -> tuple[int, int]:
        """The part's first frame and how many it has. Raises UserError for one behind the video's end."""
        first = round(self.start * rate)
        last = total - 1 if self.end is None else min(round(self.end * rate), total - 1)
        if first >= total:
            raise UserError(f"its part starts at {self.start:g} s, and it has {total / rate:.1f} s")
        return first, max(last - first, 0) + 1

    def choose(self, total: int, rate: float) -> tuple[int, ...]:
        """Places among all frames of the video."""
        first, count = self.span(total, rate)
        return tuple(first + place for place in super().choose(count, rate))

    def fingerprint(self) -> str:
        """The rule, the readers, and the part."""
        return f"{super().fingerprint()} from {self.start!r} to {self.end!r}"


def within(frames: Frames, file: CutFile) -> CutFrames:
    """The rule for the part that a file names."""
    return CutFrames(**vars(frames), start=file.start, end=file.end)


def alone(clip: Clip, frames: CutFrames) -> Clip:
    """A clip that was cut by `frames` as one of its own: places and times count from the part's start."""
    first, count = frames.span(clip.total, clip.rate)
    begin = min(first / clip.rate, clip.seconds[0])
    return replace(
        clip,
        indices=tuple(place - first for place in clip.indices),
        seconds=tuple(second - begin for second in clip.seconds),
        total=count,
    )
