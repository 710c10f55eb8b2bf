"""Re-Align: answers of which some words are filled in anew under a similar picture (arXiv 2502.13146)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from mmalign.builders import _refill
from mmalign.builders._asking import Turns, words_of
from mmalign.builders._candidates import Asked
from mmalign.builders._refill import Masked
from mmalign.builders._retrieval import Index, Near, Towers, by_towers, picture_of, shows_one_picture
from mmalign.builders._whole_rows import NewRow, Pool, Remade, RowBuilder, Tools
from mmalign.completing import Seeing
from mmalign.rewards._alike import Likeness
from mmalign.rewards._encoders import Encoder
from mmalign.rewards._loading import pick_device
from mmalign.types import Adapter, Completer, Part, UserError, derive_seed

MEDIA = "rows without exactly one picture"
WORDLESS = "rows whose answer is no text"
UNMASKED = "rows in whose answer no gaps could be read"
LONELY = "rows without another picture that is not too much alike"
UNFILLED = "fillings that left a gap or changed more than the gaps"
ALIKE = "fillings too much like the row's own answer"
GIVEN_UP = "rows for which no similar picture gave another answer"


@dataclass(frozen=True)
class _Task:
    """A row whose answer has gaps, and pictures like its own."""

    row: Asked
    answer: str
    masked: Masked
    near: Sequence[Near]


@dataclass(frozen=True)
class _Try:
    """A row under a picture like its own."""

    task: _Task
    near: Near
    turns: Turns
    seed: int


@dataclass(frozen=True)
class ReAlign(RowBuilder):
    """Writes for every row about one picture what objective re_align reads: its own answer as the chosen one,
    a similar picture, and as the rejected answer the own one with some words as the model sees them in that.

    The helper, or the model itself, puts gaps into the answer. The `top_k` pictures of the build likest to
    the row's own are tried in turn, by `pictures`, a two-tower model, or (null) by the model's own vision
    tower. With `max_picture_cosine` those are not among them whose cosine with the own one is that or more,
    as the same picture in another file; else only pictures equal in every pixel are left out. A filling is
    taken if its cosine with the answer is below `max_cosine`. `refill`: ask, the model is given the answer
    with gaps and writes it whole; complete, this project's own for models that follow no such request: it
    goes on with the answer at every gap, and as many words as stood there are taken. With `keep` an answer
    that changed more than the gaps is not taken. `encoder`: a folder or hub id of a sentence encoder; null:
    the cosine of words and neighbouring words, which needs no model.
    """

    top_k: int = 10  # pictures tried, likest first
    max_cosine: float = 0.95  # a filling is taken if its cosine with the answer is below
    # pictures as like as this count as the same one; null: only those equal in every pixel
    max_picture_cosine: float | None = None
    # have the model write the answer whole, or go on with it at every gap
    refill: Literal["ask", "complete"] = "ask"
    keep: bool = True  # take no answer that changed more than the gaps
    # two-tower model that compares pictures; null: the model's own vision tower
    pictures: Towers | None = None
    # folder or hub id of a sentence encoder; null: the cosine of words and neighbouring words
    encoder: str | None = "sentence-transformers/all-mpnet-base-v2"

    asks_helper: ClassVar[Literal["no", "yes", "may"]] = "may"

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k: must be 1 or more, got {self.top_k}")
        for name, value in (
            ("max_cosine", self.max_cosine),
            ("max_picture_cosine", self.max_picture_cosine),
        ):
            if value is not None and not -1 <= value <= 1:
                raise ValueError(f"{name}: is a cosine and must lie in [-1, 1], got {value:g}")
        if self.refill == "complete" and not self.keep:
            raise ValueError("keep: refill complete always keeps what is around the gaps; leave it true")

    def ready_for(self, adapter: Adapter) -> None:
        """Loads the encoders. Raises UserError for one that cannot be had, and for a model that looks at no
        pictures, tells nothing of its tower, or goes on with no answer, where it is to."""
        kind = type(adapter).__name__
        if "image" not in adapter.media:
            raise UserError(f"model: {kind} looks at no pictures; use adapter vlm")
        if self.pictures is None and not isinstance(adapter, Seeing):
            raise UserError(f"builder.pictures: {kind} tells nothing of its tower; name a two-tower model")
        if self.refill == "complete" and not isinstance(adapter, Completer):
            raise UserError(f"builder.refill: {kind} goes on with no answer; use ask")
        _ = self._likeness, self._towers

    @cached_property
    def _likeness(self) -> Likeness:
        return Likeness(self.encoder, "builder.encoder", pick_device(None))

    @cached_property
    def _towers(self) -> Encoder | None:
        return None if self.pictures is None else self.pictures.load("builder.pictures")

    @cached_property
    def _indexes(self) -> list[tuple[Pool, Index]]:
        return []

    def _index(self, tools: Tools) -> Index:
        """The pictures of the pool, embedded once."""
        if not self._indexes or self._indexes[-1][0] is not tools.pool:

            def own(pictures: Sequence[Part]) -> Any:
                return tools.adapter.picture_vectors(tools.model, pictures)

            index = Index(tools.pool, own if self._towers is None else by_towers(self._towers))
            self._indexes[:] = [(tools.pool, index)]
        return self._indexes[-1][1]

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """One row each; all rows try their first picture in one call, then those left their second."""
        tasks = self._tasks(rows, tools, seed)
        done = {name: Remade(counts=Counter({why: 1})) for name, why in tasks.items() if isinstance(why, str)}
        pending = [task for task in tasks.values() if isinstance(task, _Task)]
        counts: dict[str, Counter[str]] = {task.row.id: Counter() for task in pending}
        for number in range(self.top_k):
            tried = [self._try(task, number, tools, seed) for task in pending if number < len(task.near)]
            texts = self._refilled(tried, tools)
            cosines = self._likeness.cosines([one.task.answer for one in tried], [t or "" for t in texts])
            for one, text, cosine in zip(tried, texts, cosines, strict=True):
                name = one.task.row.id
                if text is None:
                    counts[name][UNFILLED] += 1
                elif text == one.task.answer or cosine >= self.max_cosine:
                    counts[name][ALIKE] += 1
                else:
                    done[name] = Remade((self._row(one, text, number, cosine),), counts[name])
            pending = [task for task in pending if task.row.id not in done]
        for task in pending:
            done[task.row.id] = Remade(counts=counts[task.row.id] + Counter({GIVEN_UP: 1}))
        return [done[row.id] for row in rows]

    def _tasks(self, rows: Sequence[Asked], tools: Tools, seed: int) -> dict[str, _Task | str]:
        """What is to be filled for every row, or why nothing can."""
        found: dict[str, _Task | str] = {}
        fit: dict[str, tuple[Asked, str]] = {}
        for row in rows:
            if not shows_one_picture(row):
                found[row.id] = MEDIA
            elif any(part.kind != "text" for part in row.original):
                found[row.id] = WORDLESS
            else:
                fit[row.id] = row, "".join(part.data for part in row.original).strip()
        said = tools.helper.write(
            [_refill.ask_mask(words_of(row.turns), answer) for row, answer in fit.values()],
            [derive_seed(seed, 0, name, "re_align gaps") >> 1 for name in fit],
        )
        for (name, (row, answer)), text in zip(fit.items(), said, strict=True):
            masked = None if text is None else _refill.read_mask(answer, text)
            if masked is None:
                found[name] = UNMASKED
                continue
            near = self._index(tools).nearest(picture_of(row), self.top_k, self.max_picture_cosine)
            found[name] = _Task(row, answer, masked, near) if near else LONELY
        return found

    def _try(self, task: _Task, number: int, tools: Tools, seed: int) -> _Try:
        near = task.near[number]
        picture = self._index(tools).picture(near.row)
        if picture is None:
            raise UserError(f"{near.row.origin}: its picture was read before and cannot be read again")
        turns = tuple(
            replace(turn, parts=tuple(picture if part.kind == "image" else part for part in turn.parts))
            for turn in task.row.turns
        )
        return _Try(task, near, turns, derive_seed(seed, number, task.row.id, "re_align words") >> 1)

    def _refilled(self, tried: Sequence[_Try], tools: Tools) -> list[str | None]:
        """The answer of every try; None where it is not to be used."""
        if not tried:
            return []
        if self.refill == "complete":
            return self._completed(tried, tools)
        asked = [_asked(one) for one in tried]
        said = tools.adapter.generate(tools.model, asked, [one.seed for one in tried])
        return [
            _refill.read_refill(one.task.masked, str(part.data), self.keep)
            for one, part in zip(tried, said, strict=True)
        ]

    def _completed(self, tried: Sequence[_Try], tools: Tools) -> list[str | None]:
        """Every gap in turn, behind what was filled before it."""
        fills: list[list[str] | None] = [[] for _ in tried]
        for gap in range(max(len(one.task.masked.spans) for one in tried)):
            left = [
                (place, one, own)
                for place, (one, own) in enumerate(zip(tried, fills, strict=True))
                if own is not None and gap < len(one.task.masked.spans)
            ]
            if not left:
                break
            said = tools.adapter.complete(
                tools.model,
                [one.turns for _, one, _ in left],
                [_refill.begun(one.task.masked, own) for _, one, own in left],
                [one.seed + gap for _, one, _ in left],
            )
            for (place, one, own), part in zip(left, said, strict=True):
                fill = _refill.next_fill(one.task.masked, gap, str(part.data))
                fills[place] = None if fill is None else [*own, fill]
        return [
            None if own is None else one.task.masked.filled(own)
            for one, own in zip(tried, fills, strict=True)
        ]

    def _row(self, one: _Try, text: str, number: int, cosine: float) -> NewRow:
        sides = {"chosen": Part("text", one.task.answer), "rejected": Part("text", text)}
        told = {
            "retrieved": one.near.row.id,
            "picture_cosine": round(one.near.cosine, 6),
            "try": number + 1,
            "cosine": round(cosine, 6),
            "masked": one.task.masked.text,
            "seeds": {"rejected": one.seed},
        }
        return NewRow("refilled", one.task.row.turns, sides, {"chosen_retrieved": one.turns}, told=told)


def _asked(one: _Try) -> Turns:
    """The turns with the request to fill the gaps in the place of what was asked last."""
    last = max(at for at, turn in enumerate(one.turns) if turn.speaker in ("user", "text"))
    text = _refill.refill_text(words_of(one.turns), one.task.masked)
    media = tuple(part for part in one.turns[last].parts if part.kind != "text")
    turn = replace(one.turns[last], parts=(*media, Part("text", text)))
    return (*one.turns[:last], turn, *one.turns[last + 1 :])
