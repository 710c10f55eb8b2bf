"""What models of pictures and clips are asked for the quality benchmark, and tables of what they answered.

Scenes are those of the held-out stream as they come, none chosen by what a model says of it.
"""

import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from _intervals import Range, Rows, changes, interval, percent, points, relative_fall, wins

from mmalign.clips import Clip
from mmalign.shapes.clip_text import ask_clip
from mmalign.shapes.clips import FRAMES, sample_clip
from mmalign.shapes.sight_pairs import clip_of
from mmalign.shapes.sight_text import Question, Topic, ask
from mmalign.shapes.sights import Split, render_sight, sample_sight
from mmalign.types import Message, Part

SEED = 2000
"""Seed of these scenes; no pair and no training of the shipped models has it."""
Prompt = tuple[Message, ...]
Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """A prompt, and the one that the judge sees: another where the model is shown disturbed frames."""

    prompt: Prompt
    judged: Prompt


def seeing_prompts(modality: str, count: int, split: Split = "heldout") -> dict[str, list[Asked]]:
    """The same questions for every cell, by the prefix of their figures."""
    if modality == "vlm":
        return {
            "caption ": [_plain(p) for p in _pictures("caption", count, split)],
            "": [_plain(p) for p in _pictures("presence", count, split)],
        }
    motion = _clips("motion", count, split)
    rng = random.Random(f"shuffled frames {SEED}")
    return {
        "": [_plain(p) for topic in ("motion", "order", "count") for p in _clips(topic, count, split)],
        "shuffled ": [Asked(_reordered(p, _other_order(rng)), p) for p in motion],
        "reversed ": [Asked(_reordered(p, list(range(FRAMES))[::-1]), p) for p in motion],
        "frozen ": [Asked(_reordered(p, [FRAMES - 1] * FRAMES), p) for p in motion],
    }


def _plain(prompt: Prompt) -> Asked:
    return Asked(prompt, prompt)


def _pictures(topic: Topic, count: int, split: Split) -> list[Prompt]:
    rng = random.Random(f"quality/{topic}/{SEED}")

    def prompt(number: int) -> Prompt | None:
        sight = sample_sight(split, SEED, number)
        return _prompt(Part("image", render_sight(sight)), ask(sight, topic, rng))

    return _first(count, prompt)


def _clips(topic: str, count: int, split: Split) -> list[Prompt]:
    rng = random.Random(f"quality/{topic}/{SEED}")

    def prompt(number: int) -> Prompt | None:
        question = ask_clip(sample_clip(split, SEED, number), topic, rng)  # type: ignore[arg-type]
        return _prompt(Part("video", clip_of(split, SEED, number)), question)

    return _first(count, prompt)


def _prompt(medium: Part, question: Question | None) -> Prompt | None:
    return None if question is None else (Message("user", (medium, Part("text", question.text))),)


def _first(count: int, prompt: Callable[[int], Prompt | None]) -> list[Prompt]:
    found: list[Prompt] = []
    number = 0
    while len(found) < count:
        made = prompt(number)
        found += [] if made is None else [made]
        number += 1
    return found


def _other_order(rng: random.Random) -> list[int]:
    order = list(range(FRAMES))
    while order == sorted(order):
        rng.shuffle(order)
    return order


def _reordered(prompt: Prompt, order: Sequence[int]) -> Prompt:
    (message,) = prompt
    medium, question = message.parts
    clip = medium.data
    assert isinstance(clip, Clip)
    mixed = replace(clip, frames=clip.frames[torch.tensor(list(order))])
    return (Message("user", (Part("video", mixed), question)),)


# ---------------------------------------------------------------- tables

SHOWN: dict[str, dict[str, str]] = {
    "vlm": {
        "caption hallucinates": "captions that name an absent thing",
        "caption recall": "recall of things",
        "caption exact": "exact captions",
        "presence": "presence questions",
    },
    "video": {
        "motion": "motion",
        "habit": "says the habit where it is false",
        "order": "order",
        "count": "count",
        "shuffled motion": "motion, frames shuffled",
        "reversed motion": "motion, frames reversed",
        "frozen motion": "motion, last frame four times",
    },
}
SCORES = {"vlm": "caption score", "video": "score"}
"""The score by which answers are compared: recall minus the share of absent things; right answers."""


def seeing_table(cells: Sequence[Cell], modality: str, arms: Sequence[str]) -> str:
    """Markdown, a column per run: every figure before -> after with its change, then win rates."""
    runs = {arm: _runs(cells, arm) for arm in arms if _runs(cells, arm)}
    steps = next(iter(runs.values()))[0]["steps"]
    lines = [f"| {modality}, {steps} steps | {' | '.join(runs)} |", "|---" * (len(runs) + 1) + "|"]

    def line(title: str, figures: Iterable[str]) -> None:
        lines.append(f"| {title} | {' | '.join(figures)} |")

    for name, title in SHOWN[modality].items():
        line(title, (_change(own, name) for own in runs.values()))
        if name == "caption hallucinates":
            line("relative fall of these", (_fall(own, name) for own in runs.values()))
    score = SCORES[modality]
    line("win rate over base", (percent(_against(own, own, "base", score)) for own in runs.values()))
    line("win rate over sft", (_over_sft(runs, arm, score) for arm in runs))
    return "\n".join(lines)


def _fall(runs: Sequence[Cell], name: str) -> str:
    return percent(relative_fall(_rows(runs, "base", name), _rows(runs, "tuned", name)))


def _over_sft(runs: Mapping[str, Sequence[Cell]], arm: str, score: str) -> str:
    sft = runs.get("sft", ())
    if arm == "sft" or [c["seed"] for c in sft] != [c["seed"] for c in runs[arm]]:
        return ""
    return percent(_against(runs[arm], sft, "tuned", score))


def _runs(cells: Sequence[Cell], arm: str) -> list[Cell]:
    return sorted((c for c in cells if c["arm"] == arm), key=lambda c: c["seed"])


def _rows(runs: Sequence[Cell], side: str, name: str) -> Rows:
    return [c[side][name] for c in runs]


def _change(runs: Sequence[Cell], name: str) -> str:
    before, after = _rows(runs, "base", name), _rows(runs, "tuned", name)
    middle, last = (100 * statistics.fmean(v for row in side for v in row) for side in (before, after))
    seeds = "/".join(f"{100 * statistics.fmean(row):.0f}" for row in after)
    return f"{middle:.1f} -> {last:.1f} ({seeds}), {points(changes(before, after))}"


def _against(runs: Sequence[Cell], others: Sequence[Cell], side: str, name: str) -> Range:
    pairs = zip(runs, others, strict=True)
    return interval([wins(ours["tuned"][name], theirs[side][name]) for ours, theirs in pairs])
