"""Verdicts in words, read strictly: what does not say one thing clearly is no verdict."""

from __future__ import annotations

import re
from typing import Literal

Verdict = Literal["first", "second", "tie"]

RATING = r"final\s+score\W*?(-?\d+(?:\.\d+)?)"
"""How "Final Score: N" is found, whatever its case and the marks between."""

_BETTER = re.compile(
    r"\b(?:image|picture|video|response|answer)\s+([12])\s+is\s+(?:the\s+)?better", re.IGNORECASE
)
_EVEN = re.compile(r"\bequally\s+good\b", re.IGNORECASE)
_PART = re.compile(r"\d[.,]?$|[-+]$")  # before what is only a part of a numeral
_NUMERAL = re.compile(r"[-+]?\d+(?:[.,]\d+)*")


def read_verdict(text: str) -> Verdict | None:
    """The verdict in an answer on two answers; None if it holds none, or several that differ."""
    found: set[Verdict] = {"first" if number == "1" else "second" for number in _BETTER.findall(text)}
    if _EVEN.search(text):
        found.add("tie")
    return found.pop() if len(found) == 1 else None


def read_rating(text: str, low: int = 1, high: int = 10) -> int | None:
    """The last "Final Score: N" of an answer as an int; None if there is none, if N is no whole number or if
    it lies outside `low`..`high`."""
    found = read_number(text, re.compile(RATING, re.IGNORECASE), "last")
    if found is None or found != int(found):
        return None
    return int(found) if low <= found <= high else None


def read_number(text: str, pattern: re.Pattern[str], which: Literal["last", "only"]) -> float | None:
    """The number that the one group of `pattern` finds: in its last match, or with `only` what all of its
    matches say. None without a match, for different numbers, and where the group is not a whole numeral, as
    the 3 of "3.5" or of "3,000": numbers are compared as numbers, never as texts."""
    found = [_number(text, match) for match in pattern.finditer(text)]
    if which == "last":
        found = found[-1:]
    return found[0] if len(set(found)) == 1 else None


def _number(text: str, match: re.Match[str]) -> float | None:
    begin, end = match.span(1)
    whole = _NUMERAL.match(text, begin) if begin >= 0 else None
    if whole is None or whole.end() != end or _PART.search(text[max(0, begin - 2) : begin]):
        return None
    try:
        return float(whole[0])
    except ValueError:  # with commas
        return None
