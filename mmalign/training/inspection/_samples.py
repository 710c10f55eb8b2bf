"""The first samples of the run as the model will see them: their views, their text, their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from mmalign.clips import Clip
from mmalign.config import RunConfig
from mmalign.data._first_pass import unpair
from mmalign.data._loader import Loader, Recipe
from mmalign.data._media import decode
from mmalign.data._order import Order
from mmalign.training._online_modes import mode_of
from mmalign.training.inspection._look import parts_of
from mmalign.training.online import OnlineData
from mmalign.training.rows import RunData, scored_roles
from mmalign.types import Adapter, Example, PreferenceSample, Prepared

NUM_SAMPLES = 3


@dataclass(frozen=True)
class ResponseView:
    """One response under its condition: `text`, of which `scored` follows at its end, `media` in words, and
    `counts` of tokens. `pictures` by name: the row's media once views are made, frames one by one, and what
    the adapter made of them."""

    role: str
    slot: int
    text: str
    scored: str
    media: tuple[str, ...]
    counts: Mapping[str, int]
    pictures: Mapping[str, Image.Image]


@dataclass(frozen=True)
class SampleView:
    """One sample in every role that is scored."""

    id: str
    origin: str
    weight: float
    labels: Mapping[str, Any]
    responses: tuple[ResponseView, ...]


@dataclass(frozen=True)
class _Witnessed(Prepared):
    """Prepared rows with the sample they were made of: media decoded, views added."""

    sample: PreferenceSample = field(default_factory=lambda: PreferenceSample("", {}))


@dataclass(frozen=True)
class _Witness:
    """An adapter's `prepare` that keeps the sample beside its rows."""

    prepare: Callable[[PreferenceSample, Sequence[str]], Prepared]

    def __call__(self, sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        done = self.prepare(sample, roles)
        return _Witnessed(done.sample_id, done.rows, sample=sample)


def first_samples(data: RunData, adapter: Adapter, config: RunConfig) -> tuple[SampleView, ...]:
    """The samples that the run's first step begins with, as its loader makes them; of rounds, some of the
    round that was made."""
    objective, train = config.objective, config.train
    if isinstance(data, OnlineData) and mode_of(objective) != "answers":
        return tuple(map(_walked, data.round_samples(config)[:NUM_SAMPLES]))
    recipe = Recipe(
        _Witness(adapter.prepare),
        scored_roles(objective),
        objective.views,
        config.views.redraw,
        "stop",
        adapter.frames,
    )
    if isinstance(data, OnlineData):
        made = data.round_samples(config)
        pools = [unpair(made).samples if "completion" in scored_roles(objective) else made]
        order = Order(config.seed, (len(pools[0]),), min(NUM_SAMPLES, len(pools[0])))
    else:
        pools = [pool.samples for pool in data.pools]
        order = replace(data.order(config), batch=min(NUM_SAMPLES, data.rows))
    (items,) = Loader(pools, order, recipe, train.workers, train.timeout_s).steps(0, 1)
    return tuple(
        SampleView(item.id, item.origin, item.weight, item.labels, tuple(_responses(adapter, item.prepared)))
        for item in items
    )


def _responses(adapter: Adapter, prepared: Prepared) -> Iterator[ResponseView]:
    assert isinstance(prepared, _Witnessed)
    for row in prepared.rows:
        seen = adapter.describe(row)
        words, pictures = _media(prepared.sample.examples[row.role][row.slot])
        words += [f"the model reads {one}" for one in seen.media]
        pictures |= {f"model-{i + 1}": _picture(pixels) for i, pixels in enumerate(seen.pictures)}
        yield ResponseView(row.role, row.slot, seen.text, seen.scored, tuple(words), seen.counts, pictures)


def _walked(sample: PreferenceSample) -> SampleView:
    """A sample of stored paths: the prompt and what each path ends in."""
    done = decode(sample)
    responses = []
    for role, (example,) in done.examples.items():
        text = " ".join(p.data for turn in example.prompt for p in turn.parts if p.kind == "text")
        words, pictures = _media(example)
        responses.append(ResponseView(role, 0, text, "", tuple(words), {}, pictures))
    return SampleView(sample.id, sample.origin, sample.weight, sample.labels, tuple(responses))


def _media(example: Example) -> tuple[list[str], dict[str, Image.Image]]:
    """Pictures and clips of a decoded response and its prompt, in words and by name."""
    words: list[str] = []
    pictures: dict[str, Image.Image] = {}
    for place, part in enumerate(part for part in parts_of(example) if part.kind != "text"):
        name = f"{part.kind}-{place + 1}"
        if isinstance(part.data, Clip):
            words.append(f"{part.kind} {place + 1} of the row: {_clip_in_words(part.data)}")
            pictures |= {f"{name}-frame-{i}": _picture(f) for i, f in enumerate(part.data.frames)}
        else:
            words.append(f"{part.kind} {place + 1} of the row: {part.data.width}x{part.data.height}")
            pictures[name] = part.data
    return words, pictures


def _clip_in_words(clip: Clip) -> str:
    height, width = clip.frames.shape[-2:]
    places = " ".join(str(index) for index in clip.indices)
    seconds = " ".join(f"{second:.2f}" for second in clip.seconds)
    return (
        f"{len(clip.frames)} of {clip.total} frames of {width}x{height}, read by {clip.reader}: "
        f"frames {places} at {seconds} s"
    )


def _picture(pixels: torch.Tensor) -> Image.Image:
    """uint8 [3, H, W] as a picture."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
