"""Verdicts in words, read strictly: what does not say one thing clearly is no verdict."""

from __future__ import annotations

import re
from typing import Literal

Verdict = Literal["first", "second", "tie"]

RATING = r"final\s+score(?:\W*[(\[]\s*\d+\s*(?:[-\u2010-\u2015]|to)\s*\d+\s*[)\]])?\W*?(-?\d+(?:\.\d+)?)"
"""How "Final Score: N" is found, whatever its case and the marks between; a range in brackets in front of the
number, as in "Final Score (1-10): N", is the scale."""

_BETTER = re.compile(
    r"\b(?:image|picture|video|response|answer)\s+([12])\s+is\s+(?:the\s+)?better", re.IGNORECASE
)
_EVEN = re.compile(r"\bequally\s+good\b", re.IGNORECASE)
_PART = re.compile(r"\d[.,]?$|[-+]$")  # before what is only a part of a numeral
_NUMERAL = re.compile(r"[-+]?\d+(?:[.,]\d+)*")
# behind a numeral that is only one of two
_MORE = re.compile(r"[ \t*_]*(?:(?:[-~\u2010-\u2015]|\.\.+|\bto\b)[ \t*_]*\d|or\b)", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])[\s*_]+|\n+")
_CLAUSE = re.compile(r"[,;]\s*(?:and\s+)?(?:so|thus|hence|therefore)\b|;", re.IGNORECASE)  # says it anew
_UNSAID = re.compile(
    r"\b(?:not|cannot|never|neither|nor|whether|if|unless|unclear|unsure|doubt\w*)\b|n['\u2019]t\b",
    re.IGNORECASE,
)


def read_verdict(text: str) -> Verdict | None:
    """The verdict in an answer on two answers, which its last sentence says; None if that says none, asks or
    denies it ("not", "whether", "if" before it), or if other sentences say another."""
    pieces = [piece for piece in _SENTENCE.split(text) if re.search(r"\w", piece)]
    told = [_verdicts(piece) for piece in pieces]
    if not told or None in told[-1]:
        return None
    found = {one for own in told for one in own if one is not None}
    return found.pop() if len(found) == 1 and told[-1] else None


def _verdicts(sentence: str) -> set[Verdict | None]:
    """What a sentence says; None for what it denies or leaves open."""
    found: set[Verdict | None] = set()
    for match in [*_BETTER.finditer(sentence), *_EVEN.finditer(sentence)]:
        before = _CLAUSE.split(sentence[: match.start()])[-1]
        if _UNSAID.search(before) or sentence.rstrip(" *_\"'").endswith("?"):
            found.add(None)
        elif match.re is _EVEN:
            found.add("tie")
        else:
            found.add("first" if match[1] == "1" else "second")
    return found


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
    the 3 of "3.5", of "3,000", of "3-4" or of "3 or 4": numbers are compared as numbers, never as texts."""
    found = [_number(text, match) for match in pattern.finditer(text)]
    if which == "last":
        found = found[-1:]
    return found[0] if len(set(found)) == 1 else None


def _number(text: str, match: re.Match[str]) -> float | None:
    begin, end = match.span(1)
    whole = _NUMERAL.match(text, begin) if begin >= 0 else None
    if whole is None or whole.end() != end or _PART.search(text[max(0, begin - 2) : begin]):
        return None
    if _MORE.match(text, end):
        return None
    try:
        return float(whole[0])
    except ValueError:  # with commas
        return None
