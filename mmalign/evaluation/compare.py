"""Base against tuned model: both answer the same prompts from the same seeds, a judge scores the answers."""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from mmalign.clips import Clip
from mmalign.evaluation import _files
from mmalign.evaluation._sheet import contact_sheet
from mmalign.evaluation.win_rate import Z95, WinRate, win_rate
from mmalign.rewards._scoring import TOTAL, ready, score_all
from mmalign.types import Judge, Message, Part, UserError, derive_seed

Switch = Callable[[], AbstractContextManager[nn.Module]]
"""Called without arguments it gives a context that yields the module to generate with."""

Prompt = tuple[str, tuple[Message, ...]]
"""A prompt's id and its turns."""


class Answering(Protocol):
    """What a comparison needs of an adapter."""

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """One sampled response per prompt, independent of how prompts are batched."""


@dataclass(frozen=True)
class Answered:
    """One prompt with both models' responses. `text` is the prompt in words, `media` the pictures in it,
    a clip being one picture of its frames; the scores are empty where nothing judged them."""

    id: str
    text: str
    media: tuple[Part, ...]
    base: Part
    tuned: Part
    base_scores: Mapping[str, float]
    tuned_scores: Mapping[str, float]


@dataclass(frozen=True)
class Means:
    """Means of one score before and after over the `num` prompts that have it, and their paired difference
    with its 95 % interval (Student's t over prompts); `low` and `high` are None below three prompts."""

    base: float
    tuned: float
    difference: float
    low: float | None
    high: float | None
    num: int


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the prompts, the evaluation's seed, and the step of the run whose weights answered
    as the tuned model, where known; `costs` names scores of which less is better, `judge` says who scored.
    Figures are computed from the rows."""

    rows: tuple[Answered, ...]
    seed: int
    step: int | None = None
    costs: tuple[str, ...] = ()
    judge: str = ""

    def __post_init__(self) -> None:
        judged = {TOTAL in scores for row in self.rows for scores in (row.base_scores, row.tuned_scores)}
        if len(judged) != 1:
            raise ValueError(f"rows must be one or more, with a {TOTAL!r} for all responses or for none")

    @property
    def win_rate(self) -> WinRate | None:
        """The tuned model's win rate on the score "score"; None without a judge."""
        if TOTAL not in self.rows[0].base_scores:
            return None
        return win_rate(
            [row.base_scores[TOTAL] for row in self.rows], [row.tuned_scores[TOTAL] for row in self.rows]
        )

    @property
    def means(self) -> dict[str, Means]:
        """Means by name, "score" first, then the others by name; a prompt counts if both answers have it."""
        names = {name for row in self.rows for name in row.base_scores if name in row.tuned_scores}
        return {name: self._means(name) for name in sorted(names, key=lambda n: (n != TOTAL, n))}

    def _means(self, name: str) -> Means:
        pairs = [
            (row.base_scores[name], row.tuned_scores[name])
            for row in self.rows
            if name in row.base_scores and name in row.tuned_scores
        ]
        base, tuned = (statistics.fmean(side) for side in zip(*pairs, strict=True))
        differences = [ours - before for before, ours in pairs]
        middle = statistics.fmean(differences)
        if len(pairs) < 3:
            return Means(base, tuned, middle, None, None, len(pairs))
        half = _t95(len(pairs) - 1) * statistics.stdev(differences) / math.sqrt(len(pairs))
        return Means(base, tuned, middle, middle - half, middle + half, len(pairs))

    def write(self, folder: Path) -> Path:
        """Write evaluation/results.json and the pictures into a run folder; returns the JSON file.

        An earlier evaluation there is replaced. No times and no paths are written.
        """
        figures: dict[str, object] = {"win_rate": self.win_rate, "means": self.means}
        figures |= {"costs": list(self.costs), "judge": self.judge}
        return _files.write(folder, self.rows, {"seed": self.seed, "step": self.step}, figures)


def compare(
    adapter: Answering,
    base: Switch,
    tuned: Switch,
    prompts: Sequence[Prompt],
    judge: Judge | None,
    batch: int,
    seed: int,
) -> Comparison:
    """Let both models answer every prompt, `batch` at a time, and score the answers if there is a judge.

    The seed of a prompt is derived from `seed` and its id, so that both models start from the same noise and
    nothing depends on order or batch. Raises UserError for no prompts, an id that occurs twice, a judge
    without a finite total, and for what the adapter or the judge refuse.
    """
    if batch < 1:
        raise ValueError(f"batch: must be above 0, got {batch}")
    if not prompts:
        raise UserError("evaluation: there are no prompts; name a heldout source that has some")
    seen: set[str] = set()
    for name, _ in prompts:
        if name in seen:
            raise UserError(f"evaluation: prompt id {name!r} occurs twice; ids must differ")
        seen.add(name)
    if judge is not None:
        ready(judge)  # a judge that cannot be had is refused before anything is generated
    befores = _answers(adapter, base, prompts, batch, seed)
    afters = _answers(adapter, tuned, prompts, batch, seed)
    base_scores, tuned_scores = (_scores(judge, prompts, answers) for answers in (befores, afters))
    rows = [
        Answered(
            id=name,
            text=_words(turns),
            media=_pictures(turns),
            base=before,
            tuned=after,
            base_scores=base_scores[i],
            tuned_scores=tuned_scores[i],
        )
        for i, ((name, turns), before, after) in enumerate(zip(prompts, befores, afters, strict=True))
    ]
    costs: frozenset[str] = getattr(type(judge), "costs", frozenset())  # a judge need not say
    return Comparison(tuple(rows), seed, costs=tuple(sorted(costs)), judge=_introduced(judge))


def read(folder: Path) -> Comparison | None:
    """The comparison in a run folder, None if it has none; UserError if the files are not a comparison."""
    path = folder / "evaluation" / "results.json"
    if not path.exists():
        return None
    try:
        seed, step, rows, costs, judge = _files.read(path)
        return Comparison(tuple(Answered(**row) for row in rows), seed, step, costs, judge)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a comparison ({type(error).__name__}: {error}); evaluate the run again"
        ) from error


def _introduced(judge: Judge | None) -> str:
    """A judge's name and the first sentence or two of what it says of itself."""
    if judge is None:
        return ""
    said = " ".join((inspect.getdoc(type(judge)) or "").split("\n\n")[0].split())
    return f"{type(judge).__name__}: {said}" if said else type(judge).__name__


def _answers(
    adapter: Answering, model: Switch, prompts: Sequence[Prompt], batch: int, seed: int
) -> list[Part]:
    answers: list[Part] = []
    with model() as module, torch.no_grad():
        for part in _batches(prompts, batch):
            seeds = [derive_seed(seed, 0, name, "sample") for name, _ in part]
            made = adapter.generate(module, [turns for _, turns in part], seeds)
            assert len(made) == len(part), "an adapter gives one response per prompt"
            answers += made
    return answers


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[Prompt]]:
    rest = iter(prompts)
    while part := list(islice(rest, size)):
        yield part


def _scores(
    judge: Judge | None, prompts: Sequence[Prompt], answers: Sequence[Part]
) -> list[dict[str, float]]:
    """Checked scores of every answer; empty ones without a judge."""
    if judge is None:
        return [{} for _ in prompts]
    try:
        return score_all(judge, [turns for _, turns in prompts], answers, [name for name, _ in prompts])
    except UserError as error:
        raise UserError(f"evaluation: {error}") from error


def _words(turns: tuple[Message, ...]) -> str:
    """A prompt as text: the speakers are named where there is more than one turn, media by their kind."""
    lines = []
    for turn in turns:
        parts = [part.data if part.kind == "text" else f"[{part.kind}]" for part in turn.parts]
        lines.append((turn.speaker, " ".join(parts)))
    if len(lines) == 1:
        return lines[0][1]
    return "\n".join(f"{speaker}: {text}" for speaker, text in lines)


def _pictures(turns: tuple[Message, ...]) -> tuple[Part, ...]:
    """What can be seen of a prompt: its decoded pictures, and its clips as one picture of frames each.

    A picture or video still in its file stays a word in the prompt's text.
    """
    seen = []
    for part in (part for turn in turns for part in turn.parts):
        if part.kind == "image" and _files.is_picture(part.data):
            seen.append(part)
        elif part.kind == "video" and isinstance(part.data, Clip):
            seen.append(Part("image", contact_sheet(part.data)))
    return tuple(seen)


def _t95(degrees: int) -> float:
    """97.5 % point of Student's t, within 0.01 of the tables from 3 degrees of freedom on, 0.04 at 2
    (Abramowitz and Stegun 26.7.5: an expansion around the normal distribution)."""
    z, v = Z95, degrees
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / v**power for power, term in enumerate(terms))
