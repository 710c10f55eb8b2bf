"""Prompts whose media are decoded, for models that answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from mmalign.clips import Frames
from mmalign.data._media import decode, media_key, most_videos
from mmalign.data._workers import run_jobs
from mmalign.types import Example, Message, Part, PreferenceSample

Prompt = tuple[str, tuple[Message, ...]]  # id, turns


@dataclass(frozen=True)
class _Decode:
    samples: Sequence[PreferenceSample]  # one part each
    frames: Frames | None

    def __call__(self, number: int) -> Part:
        return decode(self.samples[number], self.frames).examples["prompt"][0].response[0]

    def describe(self, number: int) -> str:
        """The prompt of a job in words."""
        return self.samples[number].origin


def decode_prompts(
    prompts: Sequence[Prompt], frames: Frames | None, timeout_s: float = 300.0
) -> list[Prompt]:
    """The same prompts with decoded media, each picture or video once and shared by all prompts that hold it.

    A video is decoded in a worker process, under its time limit; `frames` says how clips are cut (None:
    videos are refused). Raises UserError naming the prompt by its id. All pictures and frames are held in
    memory in their full size.
    """
    first: dict[Any, PreferenceSample] = {}
    for name, turns in prompts:
        origin = f"prompt {name if len(name) <= 80 else name[:77] + '...'!r}"
        for part in (part for turn in turns for part in turn.parts if part.kind != "text"):
            alone = {"prompt": (Example((), (part,)),)}
            first.setdefault(media_key(part), PreferenceSample(name, alone, origin=origin))
    samples = list(first.values())
    videos = 0 if frames is None else most_videos(samples)
    job = _Decode(samples, frames)
    limit = timeout_s + (frames.timeout_s if frames is not None else 0)
    with closing(run_jobs(job, range(len(samples)), videos, limit, job.describe)) as decoded:
        ready = dict(zip(first, decoded, strict=True))
    return [
        (
            name,
            tuple(replace(turn, parts=tuple(_ready(part, ready) for part in turn.parts)) for turn in turns),
        )
        for name, turns in prompts
    ]


def _ready(part: Part, ready: Mapping[Any, Part]) -> Part:
    return part if part.kind == "text" else ready[media_key(part)]
