"""Base against tuned model: both answer the same prompts from the same seeds, judges score the answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from typing import Protocol

import torch
from torch import nn

from mmalign._names import KINDS, name_of
from mmalign.clips import Clip
from mmalign.evaluation import _files
from mmalign.evaluation._sheet import contact_sheet
from mmalign.evaluation.comparison import Answered, Comparison, JudgeNote
from mmalign.rewards._scoring import ready, score_readable
from mmalign.types import Judge, Message, Part, UserError, VerdictJudge, derive_seed

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


def compare(
    adapter: Answering,
    base: Switch,
    tuned: Switch,
    prompts: Sequence[Prompt],
    judges: Sequence[Judge],
    batch: int,
    seed: int,
) -> Comparison:
    """Let both models answer every prompt, `batch` at a time, and score the answers by every judge; the first
    one decides, the others' scores carry their names.

    The seed of a prompt is derived from `seed` and its id, so that both models start from the same noise and
    nothing depends on order or batch. A verdict that cannot be read leaves an answer without that judge's
    scores. Raises UserError for no prompts, an id that occurs twice, a judge without a finite total or whose
    verdicts can be read for both answers to no prompt, and for what the adapter or a judge refuse.
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
    for judge in judges:
        ready(judge)  # one that cannot be had is refused before anything is generated
    befores = answers(adapter, base, prompts, batch, seed)
    afters = answers(adapter, tuned, prompts, batch, seed)
    notes = introduced(judges)
    base_scores, tuned_scores = (_scores(judges, notes, prompts, given) for given in (befores, afters))
    rows = [
        Answered(
            id=name,
            text=words_of(turns),
            media=_pictures(turns),
            base=seen_of(before),
            tuned=seen_of(after),
            base_scores=base_scores[i],
            tuned_scores=tuned_scores[i],
        )
        for i, ((name, turns), before, after) in enumerate(zip(prompts, befores, afters, strict=True))
    ]
    for note in notes:
        if not any(note.total in row.base_scores and note.total in row.tuned_scores for row in rows):
            raise UserError(
                f"evaluation: {note.name}: for no prompt can its verdicts on both answers be read; see what "
                "it asks for and what it is to answer"
            )
    costs = {note.prefix + name for judge, note in zip(judges, notes, strict=True) for name in _costs(judge)}
    return Comparison(tuple(rows), seed, costs=tuple(sorted(costs)), judges=notes)


def introduced(judges: Sequence[Judge]) -> tuple[JudgeNote, ...]:
    """Every judge's name, the first sentence or two of what it says of itself, and the prefix that tells its
    scores from those of the first one."""
    names: list[str] = []
    for judge in judges:
        name = name_of(KINDS["judge"], type(judge)).rpartition(":")[2].rpartition(".")[2]
        again = sum(known.partition(" ")[0] == name for known in names)
        names.append(f"{name} {again + 1}" if again else name)
    return tuple(
        JudgeNote(name, _said(judge), _unchecked(judge), f"{name}/" if place else "", _verbal(judge))
        for place, (name, judge) in enumerate(zip(names, judges, strict=True))
    )


def _said(judge: Judge) -> str:
    return " ".join((inspect.getdoc(type(judge)) or "").split("\n\n")[0].split())


def _costs(judge: Judge) -> frozenset[str]:
    found: frozenset[str] = getattr(type(judge), "costs", frozenset())  # a judge need not say
    return found


def _unchecked(judge: Judge) -> bool:
    return bool(getattr(judge, "unchecked", False))  # a judge need not say


def _verbal(judge: Judge) -> bool:
    return isinstance(judge, VerdictJudge)


def answers(
    adapter: Answering, model: Switch, prompts: Sequence[Prompt], batch: int, seed: int
) -> list[Part]:
    """One response per prompt, each from a seed of its own that follows from `seed` and the prompt's id."""
    given: list[Part] = []
    with model() as module, torch.no_grad():
        for part in _batches(prompts, batch):
            seeds = [derive_seed(seed, 0, name, "sample") for name, _ in part]
            made = adapter.generate(module, [turns for _, turns in part], seeds)
            assert len(made) == len(part), "an adapter gives one response per prompt"
            given += made
    return given


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[Prompt]]:
    rest = iter(prompts)
    while part := list(islice(rest, size)):
        yield part


def _scores(
    judges: Sequence[Judge], notes: Sequence[JudgeNote], prompts: Sequence[Prompt], given: Sequence[Part]
) -> list[dict[str, float]]:
    """Checked scores of every answer by all judges together; empty ones without a judge, and without those of
    a judge whose verdict cannot be read."""
    found: list[dict[str, float]] = [{} for _ in prompts]
    for judge, note in zip(judges, notes, strict=True):
        try:
            turns, names = [turns for _, turns in prompts], [name for name, _ in prompts]
            listed = score_readable(judge, turns, given, names)
        except UserError as error:
            who = f"{note.name}: " if len(judges) > 1 else ""
            raise UserError(f"evaluation: {who}{error}") from error
        for scores, more in zip(found, listed, strict=True):
            scores |= {note.prefix + name: value for name, value in (more or {}).items()}
    return found


def words_of(turns: tuple[Message, ...]) -> str:
    """A prompt as text: the speakers are named where there is more than one turn, media by their kind."""
    lines = []
    for turn in turns:
        parts = [part.data if part.kind == "text" else f"[{part.kind}]" for part in turn.parts]
        lines.append((turn.speaker, " ".join(parts)))
    if len(lines) == 1:
        return lines[0][1]
    return "\n".join(f"{speaker}: {text}" for speaker, text in lines)


def seen_of(answer: Part) -> Part:
    """An answer as it is kept and shown: a clip becomes one picture of its frames."""
    if answer.kind == "video" and isinstance(answer.data, Clip):
        return replace(answer, kind="image", data=contact_sheet(answer.data))
    return answer


def _pictures(turns: tuple[Message, ...]) -> tuple[Part, ...]:
    """What can be seen of a prompt: its decoded pictures, and its clips as one picture of frames each.

    A picture or video still in its file stays a word in the prompt's text.
    """
    shown = [seen_of(part) for turn in turns for part in turn.parts if part.kind != "text"]
    return tuple(part for part in shown if part.kind == "image" and _files.is_picture(part.data))
