"""Wrong answers with a list of their mistakes, as builder povid asks for them: read strictly, and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SILENT = "rows for which the helper wrote nothing, or was cut off"
UNREAD = "answers with mistakes that could not be read"
FALSE = "answers whose mistakes are not those that were listed"

NOTHING = "nothing"
"""What stands for the words of the right answer where the wrong one added some."""

_REPLY = re.compile(r"\s*Mistakes:[ \t]*\n(?P<listed>.+?)\n\s*Answer:[ \t]*\n(?P<answer>.+)", re.DOTALL)
_MISTAKE = re.compile(r"(?:[-*]\s*)?(\w+)\s*:\s*(\S.*?)\s*->\s*(\S.*)")


@dataclass(frozen=True)
class Mistake:
    """What a wrong answer says in place of words of the right one; these are empty where it added some."""

    kind: str
    right: str
    wrong: str

    @property
    def line(self) -> str:
        """As it stands in a list."""
        return f"{self.kind}: {self.right or NOTHING} -> {self.wrong}"


@dataclass(frozen=True)
class Wrong:
    """A wrong answer, with its mistakes."""

    text: str
    mistakes: tuple[Mistake, ...]


def read_wrong(reply: str | None, right: str, kinds: Sequence[str], most: int) -> Wrong | str:
    """The wrong answer of a reply with its mistakes, or why it is none: it must list one to `most`, of
    these kinds, and what a mistake says must be more often in the wrong answer than in the right one, which
    must have what it replaces."""
    if reply is None:
        return SILENT
    match = _REPLY.fullmatch(reply)
    if match is None:
        return UNREAD
    lines = [line.strip() for line in match["listed"].splitlines() if line.strip()]
    found = []
    for line in lines:
        one = _MISTAKE.fullmatch(line)
        if one is None or one[1].lower() not in kinds:
            return UNREAD
        replaced = "" if one[2].lower() == NOTHING else one[2]
        found.append(Mistake(one[1].lower(), replaced, one[3]))
    text = match["answer"].strip()
    if not text or not 1 <= len(found) <= most:
        return UNREAD
    before, after = right.casefold(), text.casefold()
    for mistake in found:
        more, gone = mistake.wrong.casefold(), mistake.right.casefold()
        if after.count(more) <= before.count(more) or gone not in before:
            return FALSE
    return Wrong(text, tuple(found))
