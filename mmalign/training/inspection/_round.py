"""A small round of a run that trains on its own samples: sampled, judged and timed, in a folder that goes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mmalign.config import RunConfig
from mmalign.training._online_modes import mode_of, most_samples
from mmalign.training.online import OnlineData
from mmalign.types import Adapter


@dataclass(frozen=True)
class Round:
    """What came of `prompts` prompts: `answers` that were judged, between `lowest` and `highest` and `mean`
    on average (no numbers without answers), `samples` to train on, and what was `left_out`, by reason.
    `round_seconds` is an estimate of a whole round of the config, which serves `steps` steps of `batch`
    samples."""

    prompts: int
    answers: int
    samples: int
    lowest: float
    mean: float
    highest: float
    left_out: Mapping[str, int]
    seconds: float
    whole_prompts: int
    round_seconds: float
    steps: int
    batch: int


def small(config: RunConfig, folder: str) -> RunConfig:
    """The config with a round of as few prompts as are answered together, or as one forward of a step takes
    samples, in `folder`."""
    online, train = config.online, config.train
    assert online is not None
    batch = min(train.batch, train.micro_batch or train.batch)
    needed = -(-batch // most_samples(online, mode_of(config.objective)))
    prompts = min(online.prompts, max(needed, online.batch))
    return replace(
        config,
        # what is sampled is tried
        online=replace(online, prompts=prompts, steps=1, offline=1.0 if online.data_alone else None),
        train=replace(train, batch=batch),
        output=folder,
    )


def sample_round(config: RunConfig, whole: RunConfig, adapter: Adapter, data: OnlineData) -> Round:
    """Make the round of a `small` config; `data` holds it then. Raises RuntimeError if its answers make no
    step, UserError if the judge cannot be had or does not read them."""
    assert config.online is not None and whole.online is not None
    data.admit(adapter, config, data.console)
    began = time.perf_counter()
    next(iter(data.loader(adapter, config).steps(0, 1)))
    took = time.perf_counter() - began
    assert data.current is not None
    record = data.current
    none = [math.nan]
    asked, scores = record["next_block"] * config.online.prompts, record["scores"]
    return Round(
        prompts=asked,
        answers=len(scores),
        samples=len(record["samples"]),
        lowest=min(scores or none),
        mean=sum(scores or none) / len(scores or none),
        highest=max(scores or none),
        left_out=dict(record["left_out"]),
        seconds=took,
        whole_prompts=whole.online.prompts,
        round_seconds=took * whole.online.prompts / asked,
        steps=whole.online.steps,
        batch=whole.train.batch,
    )
