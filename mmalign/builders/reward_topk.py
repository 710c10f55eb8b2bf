"""Curation by a reward model: of rows that belong together the best stay (Align2LLaVA, arXiv 2409.18541)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mmalign.builders import _asking
from mmalign.builders._candidates import Asked
from mmalign.builders._rows import COLUMN
from mmalign.builders._whole_rows import NewRow, Pool, Remade, RowBuilder, Tools
from mmalign.data._digest import digest
from mmalign.rewards._scoring import TOTAL, score_readable
from mmalign.types import Adapter, Message, Part

UNFIT = "rows without what is scored: words, or media that a question is about"
UNREAD = "rows whose score could not be read"
LOW = "rows that score too low"
BEHIND = "rows behind the best of their group"


@dataclass(frozen=True)
class RewardTopk(RowBuilder):
    """Keeps the rows that a judge scores best, of all or of each group, as rows with their answer alone.

    `scores`: answer has the judge score a row's answer to its prompt; question has it score the words of the
    question as a response to the picture or clip alone, and what is asked more than once about one counts
    once. `per` all, media (rows about the same pictures or clips) or prompt (answers to one question). Of
    each group the best `top` are kept, or the best `share`, rounded up; of equals the first; and none that
    score less than `least`. Align2LLaVA keeps the best questions of a picture, then the best answers to each,
    by two reward models that people's rankings trained; its numbers are not published in full.
    """

    # what the judge scores: a row's answer, or its question as a response to picture or clip
    scores: Literal["answer", "question"] = "answer"
    # group of which the best are kept: all rows, those about the same media, those of one prompt
    per: Literal["all", "media", "prompt"] = "prompt"
    top: int | None = None  # rows kept of a group; give this or share, or least alone
    share: float | None = None  # share of a group that is kept, rounded up
    least: float | None = None  # rows that score less are never kept; null: no bound

    writes: ClassVar[str] = "rows"
    asks_judge: ClassVar[bool | Literal["may"]] = True

    def __post_init__(self) -> None:
        if (self.top is None) == (self.share is None) and (self.top is not None or self.least is None):
            raise ValueError("top: give exactly one of top and share, or least alone")
        if self.top is not None and self.top < 1:
            raise ValueError(f"top: must be 1 or more, got {self.top}")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"share: must lie between 0 and 1, got {self.share:g}")
        if self.scores == "question" and self.per == "prompt":
            raise ValueError("per: all rows of one prompt have one question; use media or all")

    def ready_for(self, adapter: Adapter) -> None:
        """Every model will do: it is not asked, and says how clips are read."""

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """Every row with its score; which are kept is known once all are scored."""
        fit = [row for row in rows if self._is_fit(row)]
        asked = [(*self._judged(row), row.id) for row in fit]
        listed = map(list, zip(*asked, strict=True)) if asked else ([], [], [])
        found = dict(zip((row.id for row in fit), score_readable(tools.judge, *listed), strict=True))
        made = []
        for row in rows:
            scores = found.get(row.id)
            if scores is None:
                made.append(Remade(counts=Counter({UNREAD if row.id in found else UNFIT: 1})))
                continue
            told = {
                "scores": dict(scores),
                "group": self._group(row, tools.pool),
                "item": self._item(row, tools.pool),
            }
            made.append(Remade((NewRow("kept", row.turns, {"chosen": _answer(row)}, told=told),)))
        return made

    def sift(self, rows: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
        """Rows that score too low, or are not among the best of their group."""
        items: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        totals: dict[tuple[str, str], float] = {}
        for row in rows:
            told = row[COLUMN]
            items[told["group"]][told["item"]].append(row["id"])
            totals[told["group"], told["item"]] = told["scores"][TOTAL]
        out: dict[str, str] = {}
        for group, own in items.items():
            high = [name for name in own if self.least is None or totals[group, name] >= self.least]
            order = sorted(high, key=lambda name: -totals[group, name])
            kept = set(order[: self._most(len(own))])
            for name, ids in own.items():
                if name not in kept:
                    out |= dict.fromkeys(ids, BEHIND if name in high else LOW)
        return out

    def _most(self, count: int) -> int:
        if self.top is not None:
            return self.top
        # a share such as 0.1 of 10 is 1 and not the next whole number
        return count if self.share is None else math.ceil(round(self.share * count, 6))

    def _judged(self, row: Asked) -> tuple[tuple[Message, ...], Part]:
        """What the judge is given of a row: a prompt and a response to it."""
        if self.scores == "answer":
            return row.turns, _answer(row)
        media = tuple(part for turn in row.turns for part in turn.parts if part.kind != "text")
        return (Message("user", media),), Part("text", _asking.words_of(row.turns))

    def _is_fit(self, row: Asked) -> bool:
        shows = any(part.kind != "text" for turn in row.turns for part in turn.parts)
        words = _answer(row).data.strip() and _asking.words_of(row.turns)
        return bool(words) and (shows or self.scores == "answer")

    def _group(self, row: Asked, pool: Pool) -> str:
        if self.per == "all":
            return "all"
        return pool.picture_key(row.id) if self.per == "media" else digest(row.turns)

    def _item(self, row: Asked, pool: Pool) -> str:
        """What rows share that are kept or left out together: the same words about the same media."""
        if self.scores == "answer":
            return row.id
        return digest((pool.picture_key(row.id), _asking.words_of(row.turns)))


def _answer(row: Asked) -> Part:
    """The row's own answer in words, "" for any other."""
    return Part("text", "".join(part.data if part.kind == "text" else "" for part in row.original))
