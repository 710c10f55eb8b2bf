"""Prompts whose media are decoded, for models that answer them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from mmalign.clips import Frames
from mmalign.data._media import decode, most_videos
from mmalign.data._workers import run_jobs
from mmalign.types import Example, Message, PreferenceSample

Prompt = tuple[str, tuple[Message, ...]]  # id, turns


@dataclass(frozen=True)
class _Decode:
    samples: Sequence[PreferenceSample]
    frames: Frames | None

    def __call__(self, number: int) -> tuple[Message, ...]:
        return decode(self.samples[number], self.frames).examples["prompt"][0].prompt

    def describe(self, number: int) -> str:
        """The prompt of a job in words."""
        return self.samples[number].origin


def decode_prompts(
    prompts: Sequence[Prompt], frames: Frames | None, timeout_s: float = 300.0
) -> list[Prompt]:
    """The same prompts with decoded media; a video is decoded in a worker process, under its time limit.

    `frames` says how clips are cut from videos (None: videos are refused). Raises UserError naming the prompt
    by its id. The pictures and frames of all prompts are held in memory in their full size.
    """
    samples = [
        PreferenceSample(name, {"prompt": (Example(turns, ()),)}, origin=f"evaluation: prompt {name!r}")
        for name, turns in prompts
    ]
    videos = 0 if frames is None else most_videos(samples)
    job = _Decode(samples, frames)
    limit = timeout_s + (videos * frames.timeout_s if frames is not None else 0)
    with closing(run_jobs(job, range(len(samples)), min(1, videos), limit, job.describe)) as decoded:
        return [(name, turns) for (name, _), turns in zip(prompts, decoded, strict=True)]
