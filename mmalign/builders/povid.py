"""POVID: right answers into which a helper puts mistakes, set against themselves (arXiv 2402.11411)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from mmalign.builders import _asking
from mmalign.builders._asking import Turns
from mmalign.builders._candidates import Asked
from mmalign.builders._judged_sides import Sides, judged_sides
from mmalign.builders._mistakes import NOTHING, Wrong, read_wrong
from mmalign.builders._whole_rows import NewRow, Remade, RowBuilder, Tools
from mmalign.types import Adapter, Part, derive_seed

Kind = Literal["objects", "attributes", "relations", "reasoning"]

WORDLESS = "rows whose answer is no text"

_KINDS: dict[Kind, str] = {
    "objects": "name something that often goes with what is there but is not there itself",
    "attributes": "give something another colour, number, size or material",
    "relations": "change where things are, how they belong together or who does what",
    "reasoning": "draw a conclusion that does not follow",
}
_ASK = (
    "Below are a question about what is shown and a right answer to it. Write the answer again with {most} "
    "of it wrong, so that it sounds as likely as before, and leave the rest word for word. Mistakes may be "
    "of these kinds:\n{kinds}\n"
    "Begin with the line Mistakes: and list them below it, each on a line of its own in the form\n"
    "kind: words of the right answer -> your words\n"
    "with the word {nothing} on the left where something was added. Then write the line Answer: and below it "
    "the wrong answer, and nothing else.\n\n"
    "Question:\n{question}\n\nAnswer:\n{answer}"
)


@dataclass(frozen=True)
class Povid(RowBuilder):
    """Sets a row's answer against the same with mistakes, which the helper, or without one the model itself,
    puts into it: things that often occur together (objects), attributes, relations and reasoning.

    At most `mistakes` are asked for, of the kinds in `kinds`. They must be listed beside the answer, and each
    is looked up in both answers; a reply of another form is left out, and so is one whose list is not true.
    `show`: whether who writes is shown the row's pictures and clips. A judge, where the config names one,
    must score the right answer more than `min_gap` above the wrong one. Questions are this project's own.
    """

    # kinds of mistakes that the writer may make
    kinds: tuple[Kind, ...] = ("objects", "attributes", "relations", "reasoning")
    mistakes: int = 3  # of one answer, at most
    show: bool = True  # show the row's pictures and clips to the writer
    min_gap: float = 0.0  # with a judge: what chosen must score above rejected, exclusive

    asks_helper: ClassVar[Literal["no", "yes", "may"]] = "may"
    asks_judge: ClassVar[bool | Literal["may"]] = "may"
    asks_model: ClassVar[Literal["yes", "may"]] = "may"

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds: must name each once and at least one, got {list(self.kinds)}")
        if self.mistakes < 1:
            raise ValueError(f"mistakes: must be 1 or more, got {self.mistakes}")
        if self.min_gap < 0:
            raise ValueError(f"min_gap: must be 0 or more, got {self.min_gap:g}")

    def ready_for(self, adapter: Adapter) -> None:
        """Any model that answers in words will do."""

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """One row each, all of them written in one call."""
        lost: dict[str, str] = {}
        asked = []
        for row in rows:
            if any(part.kind != "text" for part in row.original):
                lost[row.id] = WORDLESS
            else:
                asked.append(row)
        seeds = {row.id: derive_seed(seed, 0, row.id, "povid") >> 1 for row in asked}
        replies = tools.helper.write([self._question(row) for row in asked], list(seeds.values()))
        read: dict[str, Wrong] = {}
        for row, reply in zip(asked, replies, strict=True):
            found = read_wrong(reply, _right(row), self.kinds, self.mistakes)
            if isinstance(found, str):
                lost[row.id] = found
            else:
                read[row.id] = found
        columns = self._columns([row for row in asked if row.id in read], read, tools)
        return [
            Remade(counts=Counter({lost[row.id]: 1}))
            if row.id in lost
            else self._made(row, read[row.id], columns.get(row.id, {}), seeds[row.id])
            for row in rows
        ]

    def _question(self, row: Asked) -> Turns:
        media = (
            [part for turn in row.turns for part in turn.parts if part.kind != "text"] if self.show else []
        )
        text = _ASK.format(
            most="one thing" if self.mistakes == 1 else f"one to {self.mistakes} things",
            kinds="\n".join(f"- {kind}: {_KINDS[kind]}" for kind in self.kinds),
            nothing=NOTHING,
            question=_asking.words_of(row.turns),
            answer=_right(row),
        )
        return _asking.about(text, media)

    def _columns(
        self, rows: Sequence[Asked], read: dict[str, Wrong], tools: Tools
    ) -> dict[str, dict[str, float] | str]:
        """What the judge says of every row, where there is one."""
        if tools.judge is None or not rows:
            return {}
        pairs = [Sides(row.id, row.turns, _right(row), read[row.id].text) for row in rows]
        judged = judged_sides(tools.judge, pairs, self.min_gap)
        return {row.id: found for row, found in zip(rows, judged, strict=True)}

    def _made(self, row: Asked, wrong: Wrong, columns: dict[str, float] | str, seed: int) -> Remade:
        if isinstance(columns, str):
            return Remade(counts=Counter({columns: 1}))
        sides = {"chosen": Part("text", _right(row)), "rejected": Part("text", wrong.text)}
        told = {"mistakes": [one.line for one in wrong.mistakes], "seeds": {"rejected": seed}}
        return Remade((NewRow("povid", row.turns, sides, columns=columns, told=told),))


def _right(row: Asked) -> str:
    return "".join(part.data for part in row.original).strip()
