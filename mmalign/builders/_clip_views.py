"""Parts of a clip, shown alone: some seconds of it, all but some seconds, or fewer of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmalign.builders._asking import only_clip
from mmalign.builders._candidates import Asked
from mmalign.builders._whole_rows import Pool
from mmalign.data._first_pass import outcomes
from mmalign.types import Clip, Example, Frames, PreferenceSample

Seconds = tuple[float, float]


@dataclass(frozen=True)
class VideoView:
    """What is shown of a clip. `segment`: only frames from the first of two seconds to before the second;
    `drop`: all but those; `fps`: no more frames a second than that; `num_frames`: no more frames, from the
    first to the last. Seconds count from the start of the clip."""

    segment: Seconds | None = None
    drop: Seconds | None = None
    fps: float | None = None
    num_frames: int | None = None

    def of(self, clip: Clip) -> Clip:
        """The view as a clip of its own: what is left out takes no time in it. Raises ValueError where no
        frame is left."""
        kept = [
            (self.segment is None or _within(second, self.segment))
            and not (self.drop is not None and _within(second, self.drop))
            for second in clip.seconds
        ]
        if not any(kept):
            raise ValueError(f"the view {self.told()} leaves no frame of {len(kept)}")
        shown = _stitched(clip, kept)
        if self.fps is not None:
            rule = Frames("fps", len(shown.frames), self.fps)
            shown = shown.taken(rule.choose(len(shown.frames), shown.sampled_rate))
        if self.num_frames is not None:
            rule = Frames("uniform", self.num_frames)
            shown = shown.taken(rule.choose(len(shown.frames), shown.sampled_rate))
        return shown

    def told(self) -> dict[str, Any]:
        """The view in plain values, without what it does not say; seconds to the millisecond."""
        values = {
            "segment": None if self.segment is None else [round(one, 3) for one in self.segment],
            "drop": None if self.drop is None else [round(one, 3) for one in self.drop],
            "fps": self.fps,
            "num_frames": self.num_frames,
        }
        return {name: value for name, value in values.items() if value is not None}


def piece(clip: Clip, first: int, count: int) -> Seconds:
    """The seconds in which a view holds these frames of the clip, and no others."""
    end = first + count
    after = clip.seconds[end] if end < len(clip.seconds) else clip.seconds[-1] + 1 / clip.sampled_rate
    return clip.seconds[first], after


def denser(rows: Sequence[Asked], pool: Pool, count: int) -> dict[str, Clip | str]:
    """The clips of decoded rows that show one clip each, now of `count` frames at most, from the first to the
    last, by the row's id; for one that cannot be read so, the reason."""
    assert pool.frames is not None, "rows that show clips are for models that read them"
    found: dict[str, Clip | str] = {}
    for row in rows:
        clip = only_clip(row)
        assert clip is not None, f"row {row.id!r} shows no clip alone"
        if len(clip.frames) == clip.total <= count:
            found[row.id] = clip  # all that there is
    given = [one for one in pool.rows if one.id in {row.id for row in rows} - set(found)]
    samples = [
        PreferenceSample(one.id, {"own": (Example(one.turns, ()),)}, origin=one.origin) for one in given
    ]
    rule = replace(pool.frames, sampling="uniform", count=count)
    for one, made in zip(given, outcomes(samples, _itself, "skip", frames=rule), strict=True):
        if isinstance(made, str):
            found[one.id] = made
            continue
        clip = only_clip(Asked(one.id, made[0].examples["own"][0].prompt))
        assert clip is not None, "the same turns were decoded before"
        found[one.id] = clip
    return found


def _itself(sample: PreferenceSample) -> tuple[PreferenceSample, ...]:
    return (sample,)


def _within(second: float, span: Seconds) -> bool:
    return span[0] <= second < span[1]


def _stitched(clip: Clip, kept: Sequence[bool]) -> Clip:
    """The kept frames as a clip whose time stands still where frames are left out."""
    if all(kept):
        return clip
    ends = (*clip.indices[1:], clip.total), (*clip.seconds[1:], clip.seconds[-1] + 1 / clip.sampled_rate)
    gone, lost = 0, 0.0
    indices, seconds = [], []
    for place, stays in enumerate(kept):
        if stays:
            indices.append(clip.indices[place] - gone)
            seconds.append(clip.seconds[place] - lost)
        else:
            gone += ends[0][place] - clip.indices[place]
            lost += ends[1][place] - clip.seconds[place]
    frames = clip.frames[torch.tensor(kept)]
    return Clip(frames, tuple(indices), tuple(seconds), clip.rate, clip.total - gone, clip.reader)
