"""BDHS: the chosen answer written on while its picture is hidden from attention (arXiv 2407.02477)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from mmalign.builders._alike import Likeness
from mmalign.builders._candidates import Asked
from mmalign.builders._sentence_cuts import Cut, cuts, joined
from mmalign.builders._whole_rows import NewRow, Remade, RowBuilder, Tools
from mmalign.rewards._loading import pick_device
from mmalign.types import Adapter, HidingCompleter, Part, UserError, derive_seed

MEDIA = "rows without a picture or clip"
WORDLESS = "rows whose answer is no text"
EMPTY = "answers without any text"
EQUAL = "answers equal to the row's own"


@dataclass(frozen=True)
class _Task:
    """A row with its chosen answer, and how many places its media take."""

    row: Asked
    chosen: str
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
class Bdhs(RowBuilder):
    """Writes for every row the answer that objective bdhs reads besides: the model's own, little of the
    picture being seen. A row keeps its chosen answer, and its rejected one where it has one.

    Of every picture or clip each place is hidden with probability `rho`. Every sentence of the chosen answer
    is cut before one of its words and written to its end behind the true sentences before it. The outcome is
    taken if its cosine with the chosen answer is at most `eps`, else mask and cuts are drawn again; after
    `tries` of them the model writes freely under a new mask. A leading yes or no is turned round with chance
    `flip`. `encoder`: a folder or hub id of a sentence encoder; null: the cosine of words and neighbouring
    words, which needs no model.
    """

    rho: float = 0.99
    eps: float = 0.97
    tries: int = 5
    flip: float = 0.5
    encoder: str | None = "sentence-transformers/all-mpnet-base-v2"

    sides: ClassVar[tuple[str, ...]] = ("rejected",)

    def __post_init__(self) -> None:
        for name, value in (("rho", self.rho), ("flip", self.flip)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: must lie in [0, 1], got {value:g}")
        if not -1 <= self.eps <= 1:
            raise ValueError(f"eps: is a cosine and must lie in [-1, 1], got {self.eps:g}")
        if self.tries < 0:
            raise ValueError(f"tries: must be 0 or more, got {self.tries}")

    def ready_for(self, adapter: Adapter) -> None:
        """Raises UserError for a model whose attention cannot be kept from places, and for an encoder that
        cannot be had."""
        if not isinstance(adapter, HidingCompleter):
            raise UserError(
                f"model: {type(adapter).__name__} hides no places of pictures; use adapter vlm or video_lm"
            )
        _ = self._likeness

    @cached_property
    def _likeness(self) -> Likeness:
        return Likeness(self.encoder, "builder.encoder", pick_device(None))

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """One row each, all tries of a round in one call."""
        tasks = self._tasks(rows, tools)
        done = {name: Remade(counts=Counter({why: 1})) for name, why in tasks.items() if isinstance(why, str)}
        pending = [task for task in tasks.values() if isinstance(task, _Task)]
        for number in range(self.tries + 1):
            free = number == self.tries
            tried = [self._drawn(task, number, free, seed) for task in pending]
            texts = self._written(tried, tools)
            cosines = self._likeness.cosines([task.chosen for task in pending], texts)
            left = []
            for one, text, cosine in zip(tried, texts, cosines, strict=True):
                if free or (text and cosine <= self.eps):
                    told = {"try": number + 1, "free": free, "cosine": round(cosine, 6)}
                    done[one.task.row.id] = self._made(one, text, told)
                else:
                    left.append(one.task)
            pending = left
            if not pending:
                break
        return [done[row.id] for row in rows]

    def _tasks(self, rows: Sequence[Asked], tools: Tools) -> dict[str, _Task | str]:
        """What is to be written for every row, or why nothing can."""
        found: dict[str, _Task | str] = {}
        for row in rows:
            if all(part.kind == "text" for turn in row.turns for part in turn.parts):
                found[row.id] = MEDIA
            elif any(part.kind != "text" for part in row.original):
                found[row.id] = WORDLESS
            else:
                (places,) = tools.adapter.media_tokens([row.turns])
                chosen = "".join(part.data for part in row.original).strip()
                found[row.id] = _Task(row, chosen, sum(places))
        return found

    def _drawn(self, task: _Task, number: int, free: bool, seed: int) -> _Try:
        """All that is random about one try of a row."""
        generator = torch.Generator().manual_seed(derive_seed(seed, number, task.row.id, "bdhs mask"))
        visible = torch.rand(task.places, generator=generator) >= self.rho
        rng = random.Random(derive_seed(seed, number, task.row.id, "bdhs cuts"))
        cut = () if free else tuple(cuts(task.chosen, self.flip, rng))
        first = derive_seed(seed, number, task.row.id, "bdhs words") >> 1
        return _Try(task, visible, cut, tuple(range(first, first + max(1, len(cut)))))

    def _written(self, tried: Sequence[_Try], tools: Tools) -> list[str]:
        """The answer of every try; all their sentences are written in one call."""
        asked = [(one, begun, seed) for one in tried for begun, seed in one.begun]
        said: list[Part] = []
        if asked:
            given, begun, seeds = zip(*asked, strict=True)
            prompts, visible = [one.task.row.turns for one in given], [one.visible for one in given]
            said = tools.adapter.complete(tools.model, prompts, begun, seeds, visible)
        tails = (part.data for part in said)
        return [
            joined(one.cut, ["" if cut.whole else next(tails) for cut in one.cut])
            if one.cut
            else next(tails).strip()
            for one in tried
        ]

    def _made(self, one: _Try, text: str, told: Mapping[str, object]) -> Remade:
        if not text:
            return Remade(counts=Counter({EMPTY: 1}))
        if text == one.task.chosen:
            return Remade(counts=Counter({EQUAL: 1}))
        row, places = one.task.row, one.task.places
        answers = {"chosen": Part("text", one.task.chosen), "bdhs": Part("text", text)}
        if (rejected := row.sides.get("rejected")) is not None:
            answers["rejected"] = Part("text", "".join(part.data for part in rejected))
        seen = {"places": places, "hidden": places - int(one.visible.sum())}
        return Remade((NewRow("bdhs", row.turns, answers, told={**told, **seen}),))
