"""HA-DPO: both answers of a pair written again in one style, so that style is no cue (arXiv 2311.16839)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from mmalign.builders import _asking
from mmalign.builders._candidates import Asked
from mmalign.builders._judged_sides import Sides, judged_sides
from mmalign.builders._whole_rows import NewRow, Remade, RowBuilder, Tools
from mmalign.types import Adapter, Part, derive_seed

SINGLE = "rows without a chosen and a rejected text to one prompt"
UNREAD = "answers that were not written again in the form that was asked for"
REPEATED = "answers written again as before"
CHANGED = "answers written again with other facts"
UNSAID = "answers written again of which it was not said whether their facts are the same"
UNEVEN = "pairs whose sides, written again, are of far other lengths"
EQUAL = "pairs whose sides, written again, are equal"

_ASK = (
    "Write the text below again in this style: {style}. Keep every fact as it is, true or not: add none, "
    "leave none out and correct none. Reply with the line Rewritten: and below it the new text, and nothing "
    "else.\n\nText:\n{text}"
)
_CHECK = (
    "Do these two texts state exactly the same facts, whatever their words and style? Reply with yes or no "
    "alone.\n\nFirst text:\n{first}\n\nSecond text:\n{second}"
)
_REPLY = re.compile(r"\s*Rewritten:[ \t]*\n(?P<text>.+)", re.DOTALL)
_SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class _Said:
    """A side of a row written again for the `place`-th time."""

    row: Asked
    side: str
    place: int
    text: str
    seed: int


@dataclass(frozen=True)
class HaDpo(RowBuilder):
    """Has the helper, or without one the model itself, write both answers of a row again in one `style`,
    `rewrites` times each, and makes pairs of what comes out: each rewritten chosen answer with each rejected
    one, or with `pairs: matched` with that of the same time.

    With `verify` the writer is asked whether a text still states the same facts, and one that does not is
    left out. `len_ratio`: what the length of a rejected side may be to its chosen one's, in characters, for a
    style that is seen in the length of answers is none that both share. A judge, where the config names one,
    must score the chosen side more than `min_gap` above the other one. Questions, `len_ratio` and `verify`
    are this project's own.
    """

    # how both sides are written again, in words for the writer
    style: str = "plain description in complete sentences, without opinions"
    rewrites: int = 3  # times that each side is written again
    # every rewritten chosen side with every rejected one, or with that of the same time
    pairs: Literal["all", "matched"] = "all"
    # ask the writer whether a rewrite states the same facts, and leave out one that does not
    verify: bool = True
    # least and greatest length of a rejected side as a share of its chosen one's, in characters
    len_ratio: tuple[float, float] = (0.5, 2.0)
    min_gap: float = 0.0  # with a judge: what chosen must score above rejected, exclusive

    sides: ClassVar[tuple[str, ...]] = ("rejected",)
    asks_helper: ClassVar[Literal["no", "yes", "may"]] = "may"
    asks_judge: ClassVar[bool | Literal["may"]] = "may"
    asks_model: ClassVar[Literal["yes", "may"]] = "may"

    def __post_init__(self) -> None:
        if not self.style.strip():
            raise ValueError("style: must say how answers are to be written, is empty")
        if self.rewrites < 1:
            raise ValueError(f"rewrites: must be 1 or more, got {self.rewrites}")
        if not 0 <= self.len_ratio[0] <= 1 <= self.len_ratio[1]:
            raise ValueError(f"len_ratio: must hold 1 between two bounds, got {list(self.len_ratio)}")
        if self.min_gap < 0:
            raise ValueError(f"min_gap: must be 0 or more, got {self.min_gap:g}")

    def ready_for(self, adapter: Adapter) -> None:
        """Any model that answers in words will do."""

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """All texts of all rows are written in one call, and looked at in another."""
        counts = {row.id: Counter[str]() for row in rows}
        fit = []
        for row in rows:
            if all(_text(row, side) for side in _SIDES):
                fit.append(row)
            else:
                counts[row.id][SINGLE] += 1
        said = self._written(fit, tools, seed, counts)
        if self.verify:
            said = self._verified(said, tools, seed, counts)
        paired = [(row, *two) for row in fit for two in self._paired(row, said, counts[row.id])]
        columns: list[dict[str, float] | str] = [{} for _ in paired]
        if tools.judge is not None and paired:
            asked = [Sides(row.id, row.turns, one.text, two.text) for row, one, two in paired]
            columns = judged_sides(tools.judge, asked, self.min_gap)
        made: dict[str, list[NewRow]] = {row.id: [] for row in rows}
        for (row, chosen, rejected), found in zip(paired, columns, strict=True):
            if isinstance(found, str):
                counts[row.id][found] += 1
            else:
                made[row.id].append(_row(row, chosen, rejected, found))
        return [Remade(tuple(made[row.id]), counts[row.id]) for row in rows]

    def _written(
        self, rows: Sequence[Asked], tools: Tools, seed: int, counts: dict[str, Counter[str]]
    ) -> list[_Said]:
        """Both sides of all rows as they were written again. Both are written from one seed, so that a writer
        who draws a style draws the same."""
        asked = [(row, side, place) for row in rows for place in range(self.rewrites) for side in _SIDES]
        questions = [
            _asking.about(_ASK.format(style=self.style, text=_text(row, side))) for row, side, _ in asked
        ]
        seeds = [derive_seed(seed, place, row.id, "ha_dpo") >> 1 for row, _, place in asked]
        found: dict[tuple[str, str, str], _Said] = {}
        replies = tools.helper.write(questions, seeds)
        for (row, side, place), own, reply in zip(asked, seeds, replies, strict=True):
            match = _REPLY.fullmatch(reply or "")
            text = match["text"].strip() if match else ""
            key = (row.id, side, text)
            if not text or key in found:
                counts[row.id][REPEATED if text else UNREAD] += 1
            else:
                found[key] = _Said(row, side, place, text, own)
        return list(found.values())

    def _verified(
        self, said: Sequence[_Said], tools: Tools, seed: int, counts: dict[str, Counter[str]]
    ) -> list[_Said]:
        """Those of which the writer says that they state what the answers stated."""
        questions = [
            _asking.about(_CHECK.format(first=_text(one.row, one.side), second=one.text)) for one in said
        ]
        seeds = [derive_seed(seed, one.place, one.row.id, f"ha_dpo {one.side} check") >> 1 for one in said]
        kept = []
        for one, reply in zip(said, tools.helper.write(questions, seeds), strict=True):
            verdict = _asking.read_word(reply, ("yes", "no"))
            if verdict == "yes":
                kept.append(one)
            else:
                counts[one.row.id][CHANGED if verdict == "no" else UNSAID] += 1
        return kept

    def _paired(
        self, row: Asked, said: Sequence[_Said], counts: Counter[str]
    ) -> Iterator[tuple[_Said, _Said]]:
        """The pairs of a row whose sides differ, and not in length above all."""
        chosen, rejected = (
            [one for one in said if one.row.id == row.id and one.side == side] for side in _SIDES
        )
        for one in chosen:
            for two in rejected:
                if self.pairs == "matched" and one.place != two.place:
                    continue
                if one.text == two.text:
                    counts[EQUAL] += 1
                elif not self.len_ratio[0] <= len(two.text) / len(one.text) <= self.len_ratio[1]:
                    counts[UNEVEN] += 1
                else:
                    yield one, two


def _text(row: Asked, side: str) -> str:
    """The answer of a side; empty where there is none, or one that is no text."""
    parts = row.original if side == "chosen" else row.sides.get(side, ())
    return "" if any(part.kind != "text" for part in parts) else "".join(p.data for p in parts).strip()


def _row(row: Asked, chosen: _Said, rejected: _Said, columns: dict[str, float]) -> NewRow:
    sides = {one.side: Part("text", one.text) for one in (chosen, rejected)}
    told = {
        "rewrites": [chosen.place + 1, rejected.place + 1],
        "seeds": {one.side: one.seed for one in (chosen, rejected)},
    }
    return NewRow(f"{chosen.place + 1}-{rejected.place + 1}", row.turns, sides, columns=columns, told=told)
