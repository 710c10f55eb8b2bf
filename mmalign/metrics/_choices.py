"""Questions with given choices: which of them an answer means, and the shares of right ones."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mmalign.metrics._letters import LETTERS, chosen, plain, unmarked
from mmalign.metrics._seam import AT, Graded, Groups, Metric, Numbers, Question, Sums, ratio
from mmalign.types import Message, Part, UserError


@dataclass(frozen=True)
class ChoiceItem:
    """A question with its right answer: a letter where there are options, else a text. `average` is the group
    that a mean over groups counts it in."""

    id: str
    turns: tuple[Message, ...]
    answer: str
    options: tuple[str, ...] = ()
    cluster: str = ""
    groups: Groups = field(default_factory=dict)
    average: str = ""


class ChoiceMetric(Metric):
    """Accuracy over items. `asks` is the name that answers are kept under; of `scale` 100 the values are in
    percent; `leaves_out`: answers that do not count in the accuracy, those from which no choice can be read,
    or empty ones alone."""

    asks: ClassVar[str]
    scale: ClassVar[float] = 1.0
    leaves_out: ClassVar[Literal["none", "unread", "empty"]] = "none"
    costs: ClassVar[frozenset[str]] = frozenset({"unanswered"})

    @property
    @abstractmethod
    def items(self) -> Mapping[str, ChoiceItem]:
        """Every question by its id. Raises UserError naming file and row."""

    def said(self, item: ChoiceItem, answer: str) -> str | None:
        """What an answer chooses, to be compared with the item's; None if that cannot be told."""
        if item.options:
            return chosen(answer, item.options)
        parts = {plain(one) for one in unmarked(answer)}
        return (parts.pop() or None) if len(parts) == 1 else None

    def ask(self) -> Sequence[Question]:
        """Every question, in the order of the file."""
        return [Question(name, item.turns, self.asks) for name, item in self.items.items()]

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per question."""
        found = []
        for name, item in self.items.items():
            if name in answers:
                said = self.said(item, answers[name])
                right = float(
                    said is not None and said == (item.answer if item.options else plain(item.answer))
                )
                base = float(self._counts(answers[name], said))
                counts = {"asked": 1.0, "answered": float(said is not None), "right": right, "base": base}
                if item.average:
                    counts |= {f"right{AT}{item.average}": right, f"base{AT}{item.average}": base}
                shown = {"said": said, "right": item.answer}
                found.append(Graded(name, counts, item.groups, item.cluster, shown))
        return found

    def _counts(self, answer: str, said: str | None) -> bool:
        """Whether an answer counts in the accuracy."""
        if self.leaves_out == "empty":
            return bool(answer.strip())
        return self.leaves_out == "none" or said is not None

    def remarks(self, items: Sequence[Graded]) -> tuple[str, ...]:
        """The groups that macro leaves out, having no question of which the answer counts."""
        base: dict[str, float] = {}
        for item in items:
            for name, count in item.counts.items():
                if name.startswith("base" + AT):
                    base[name] = base.get(name, 0.0) + count
        empty = [name.partition(AT)[2] for name, count in base.items() if not count]
        return (f"macro leaves out {', '.join(empty)}: no answer there counts",) if empty else ()

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """acc, the share without a readable choice, and, where items are averaged by group, macro."""
        found = {"acc": self.scale * ratio(sums["right"], sums["base"])}
        if any(name.startswith("base" + AT) for name in sums):
            found["macro"] = self.scale * sums.macro("right", "base")
        unread = sums["asked"] - sums["answered"]
        return {**found, "unanswered": self.scale * ratio(unread, sums["asked"])}


def lettered(options: Sequence[str]) -> str:
    """Options as lines, "A. a red one"."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def letter_in(text: str, count: int, where: str, name: str) -> str:
    """The letter of the right option, from "B", "(B)" or "B. a red one"; UserError for one without option."""
    found = re.match(r"\(?([A-Z])(?![A-Za-z])", text.strip())
    if not found or found[1] not in LETTERS[:count]:
        raise UserError(f"{where}: {name} must be a letter of one of the {count} options, got {text!r:.60}")
    return found[1]


def placed(text: str, media: Sequence[Part], where: str) -> list[Part | str]:
    """Text and media in order: where the text says <image> or <video>, or all in front where it does not.

    Raises UserError where there are some places, but not one for each.
    """
    pieces = re.split(r"<(?:image|video)>", text)
    if len(pieces) == 1:
        return [*media, text]
    if len(pieces) != len(media) + 1:
        raise UserError(f"{where}: the question has {len(pieces) - 1} places for {len(media)} pictures")
    found: list[Part | str] = []
    for place, piece in enumerate(pieces):
        found += [piece] if piece.strip() else []
        found += media[place : place + 1]
    return found
