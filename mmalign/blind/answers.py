"""The chosen answer written on while its picture is hidden from attention (BDHS, arXiv 2407.02477)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmalign.blind.cuts import Cut, cuts, joined
from mmalign.types import (
    Adapter,
    Example,
    HidingCompleter,
    Message,
    Part,
    PreferenceSample,
    UserError,
    derive_seed,
)

MEDIA = "rows without a picture or clip"
EMPTY = "answers without any text"
EQUAL = "answers equal to the row's own"
CUT = "rows whose answer is cut to fit the model"


@dataclass(frozen=True)
class Blind:
    """How answers are written blind."""

    rho: float = 0.99  # chance of every place of a picture or clip to be hidden
    eps: float = 0.97  # what is written is taken if its cosine with the chosen answer is at most this
    tries: int = 5  # so many masks and cuts are drawn before the model writes freely, under another mask
    flip: float = 0.5  # chance that a yes or no that the answer begins with is turned round
    # a folder or hub id of a sentence encoder; null: the cosine of words and neighbouring words, without one
    encoder: str | None = "sentence-transformers/all-mpnet-base-v2"

    def __post_init__(self) -> None:
        for name, value in (("rho", self.rho), ("flip", self.flip)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: must lie in [0, 1], got {value:g}")
        if not -1 <= self.eps <= 1:
            raise ValueError(f"eps: is a cosine and must lie in [-1, 1], got {self.eps:g}")
        if self.tries < 0:
            raise ValueError(f"tries: must be 0 or more, got {self.tries}")


class Alike(Protocol):
    """What tells how alike texts are."""

    def cosines(self, first: Sequence[str], second: Sequence[str]) -> list[float]:
        """The cosine of each text with the one at its place."""


@dataclass(frozen=True)
class Subject:
    """A prompt, media decoded, and the answer to it, of text alone, that is written anew. Seeds are made from
    `id`."""

    id: str
    turns: tuple[Message, ...]
    answer: tuple[Part, ...]


@dataclass(frozen=True)
class Written:
    """An answer written blind, with the chosen one's white space around it, which else would tell the two
    apart. `told`: the try it came from, whether freely, its cosine with the chosen answer, how many of the
    places were hidden, and the seed of every sentence."""

    text: str
    told: Mapping[str, Any]


def refuse_seeing(adapter: object) -> None:
    """Raise UserError for a model whose attention cannot be kept from places."""
    if not isinstance(adapter, HidingCompleter):
        raise UserError(
            f"model: {type(adapter).__name__} hides no places of pictures; use adapter vlm or video_lm"
        )


def is_cut(adapter: Adapter, subject: Subject) -> bool:
    """Whether the answer does not fit behind its prompt, so that the model could not go on from parts of it.
    Raises UserError as the adapter does for a row that it cannot use."""
    example = Example(subject.turns, subject.answer)
    sample = PreferenceSample(subject.id, {"chosen": (example,)}, origin=subject.id)
    return bool(adapter.check(sample, ("chosen",)))


@dataclass(frozen=True)
class _Task:
    """A chosen answer without the white space around it, and how many places the media of its prompt take."""

    subject: Subject
    chosen: str
    before: str
    after: str
    places: int


@dataclass(frozen=True)
class _Try:
    """What is hidden and what is written anew; no sentences for an answer that is written freely."""

    task: _Task
    visible: Tensor
    cut: tuple[Cut, ...]
    seeds: tuple[int, ...]

    @property
    def begun(self) -> list[tuple[str, int]]:
        """What the model goes on from, with a seed each."""
        if not self.cut:
            return [("", self.seeds[0])]
        both = zip(self.cut, self.seeds, strict=True)
        return [(cut.begun, seed) for cut, seed in both if not cut.whole]


@dataclass(frozen=True)
class BlindWriter:
    """Writes answers with `model`, one of `adapter`.

    Of every picture or clip each place is hidden with probability `rho`. Every sentence of the chosen answer
    is cut before one of its words and written to its end behind the true sentences before it. The outcome is
    taken if its cosine with the chosen answer is at most `eps`, else mask and cuts are drawn again; after
    `tries` of them the model writes freely under a new mask.
    """

    settings: Blind
    alike: Alike
    adapter: HidingCompleter
    model: nn.Module

    def write(self, subjects: Sequence[Subject], seed: int) -> list[Written | str]:
        """For every subject its answer, or why there is none; all tries of a round are made in one call.
        What a subject gets depends on `seed` and itself, not on the others. Raises UserError for an answer
        that `is_cut`."""
        settings = self.settings
        tasks = [self._task(subject) for subject in subjects]
        done: dict[int, Written | str] = {i: one for i, one in enumerate(tasks) if isinstance(one, str)}
        pending = {i: one for i, one in enumerate(tasks) if isinstance(one, _Task)}
        for number in range(settings.tries + 1):
            if not pending:
                break
            free = number == settings.tries
            tried = [self._drawn(task, number, free, seed) for task in pending.values()]
            texts = self._texts(tried)
            cosines = self.alike.cosines([task.chosen for task in pending.values()], texts)
            left = {}
            for place, one, text, cosine in zip(pending, tried, texts, cosines, strict=True):
                if free or (text and cosine <= settings.eps):
                    told = {"try": number + 1, "free": free, "cosine": round(cosine, 6)}
                    done[place] = _written(one, text, told)
                else:
                    left[place] = one.task
            pending = left
        return [done[place] for place in range(len(subjects))]

    def _task(self, subject: Subject) -> _Task | str:
        """What is to be written, or why nothing can."""
        if all(part.kind == "text" for turn in subject.turns for part in turn.parts):
            return MEDIA
        (places,) = self.adapter.media_tokens([subject.turns])
        answer = "".join(part.data for part in subject.answer)
        behind = answer.lstrip()
        before = answer[: len(answer) - len(behind)]
        chosen = behind.rstrip()
        return _Task(subject, chosen, before, behind[len(chosen) :], sum(places))

    def _drawn(self, task: _Task, number: int, free: bool, seed: int) -> _Try:
        """All that is random about one try."""
        settings, name = self.settings, task.subject.id
        generator = torch.Generator().manual_seed(derive_seed(seed, number, name, "bdhs mask"))
        visible = torch.rand(task.places, generator=generator) >= settings.rho
        rng = random.Random(derive_seed(seed, number, name, "bdhs cuts"))
        cut = () if free else tuple(cuts(task.chosen, settings.flip, rng))
        first = derive_seed(seed, number, name, "bdhs words") >> 1
        return _Try(task, visible, cut, tuple(range(first, first + max(1, len(cut)))))

    def _texts(self, tried: Sequence[_Try]) -> list[str]:
        """The answer of every try; all their sentences are written in one call."""
        asked = [(one, begun, seed) for one in tried for begun, seed in one.begun]
        said: list[Part] = []
        if asked:
            given, begun, seeds = zip(*asked, strict=True)
            prompts, visible = [one.task.subject.turns for one in given], [one.visible for one in given]
            said = self.adapter.complete(self.model, prompts, begun, seeds, visible)
        tails = (part.data for part in said)
        return [
            joined(one.cut, ["" if cut.whole else next(tails) for cut in one.cut])
            if one.cut
            else next(tails).strip()
            for one in tried
        ]


def _written(one: _Try, text: str, told: Mapping[str, Any]) -> Written | str:
    if not text:
        return EMPTY
    task = one.task
    if text == task.chosen:
        return EQUAL
    seen: dict[str, Any] = {"places": task.places, "hidden": task.places - int(one.visible.sum())}
    seen |= {"seeds": {"bdhs": list(one.seeds)}}
    return Written(f"{task.before}{text}{task.after}", {**told, **seen})
