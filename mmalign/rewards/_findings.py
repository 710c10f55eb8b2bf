"""A judge's list of findings and errors of a radiology report, and the GREEN score that follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass

ERRORS = {
    "a": "a finding that the reference does not have",
    "b": "a finding of the reference that is missing",
    "c": "a finding in the wrong place",
    "d": "a finding of the wrong severity",
    "e": "a comparison with an earlier study that the reference does not make",
    "f": "a comparison with an earlier study that is missing",
}
"""The six kinds of errors, by the letters of their lines in a verdict."""

_SECTIONS = ("clinically significant errors", "clinically insignificant errors", "matched findings")
_HEAD = re.compile(rf"^\W*({'|'.join(_SECTIONS)})\W*?:", re.MULTILINE)
_LINE = re.compile(r"^[ \t]*\(([a-z])\)([^:\n]*):(.*)$", re.MULTILINE)
_COUNT = re.compile(r"\s*(\d+)(?![\d]|[.,]\d|\s*[-/]\s*\d)")
_BRACKETS = re.compile(r"[\[\]]")


@dataclass(frozen=True)
class Findings:
    """How many findings a report shares with the reference, and how many errors it makes that matter and
    that do not."""

    matched: int
    significant: int
    insignificant: int

    @property
    def green(self) -> float:
        """matched / (matched + significant), 0 without a match."""
        return self.matched / (self.matched + self.significant) if self.matched else 0.0


def clean(text: str) -> str:
    """A text in lower case without square brackets; lines stay."""
    return _BRACKETS.sub("", text).lower().strip()


def read_findings(verdict: str) -> Findings | None:
    """What a verdict says. None unless it has each of the three sections once, all six counts in both lists
    of errors, and the count of matched findings: a section that is absent is no section without errors."""
    text = clean(verdict)
    heads = list(_HEAD.finditer(text))
    if sorted(head[1] for head in heads) != sorted(_SECTIONS):
        return None
    ends = [head.start() for head in heads[1:]] + [len(text)]
    bodies = {head[1]: text[head.end() : end] for head, end in zip(heads, ends, strict=True)}
    significant, insignificant = (_errors(bodies[name]) for name in _SECTIONS[:2])
    matched = _COUNT.match(bodies[_SECTIONS[2]])
    if significant is None or insignificant is None or matched is None:
        return None
    return Findings(int(matched[1]), significant, insignificant)


def _errors(body: str) -> int | None:
    """The sum of the counts of all six kinds; None unless each kind has one."""
    found = [(line[1], _COUNT.match(line[3])) for line in _LINE.finditer(body)]
    if [letter for letter, _ in found] != list(ERRORS):
        return None
    return sum(int(count[1]) for _, count in found if count) if all(count for _, count in found) else None
