"""Whether a written answer says yes or no, true or false. What is not clear is not read."""

from __future__ import annotations

import re

from mmalign.metrics._letters import CLAUSE, NEGATED, unmarked, without_lead

_LEADS = ("the answer is", "the correct answer is", "the best answer is", "answer:", "answer is")
_FALSE = frozenset(("no", "false", "incorrect", "untrue", "inaccurate"))
_FIRST = re.compile(
    r"(?P<not>not\s+)?(?:(?P<word>yes|true|correct|false|incorrect|untrue|inaccurate)\b"
    r"|(?P<no>no)(?=\W*$|\s*[,.;:!\n\u2013\u2014-]|\s+(?:it|the|there|this|that|they|he|she|neither|not|only)\b))"
    r"(?!\s+(?:or|and)\b|\s*/)",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"(?:\b(?:is|was|be|are)(?:n['\u2019]t)?|\w['\u2019]s)\s+"
    r"(?:(?:not|never|indeed|therefore|thus|also|both|\w+ly)\s+)*"
    r"(?P<word>true|correct|accurate|false|incorrect|untrue|inaccurate)\b",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(?:whether|if|unsure|sure|maybe|perhaps|possibly|may|might|could|or)\b", re.IGNORECASE
)


def truth(answer: str) -> bool | None:
    """True for yes and true, False for no and false, as the first word or as what something is said to be
    ("the statement is not true"); None for neither, and for what contradicts itself or is in doubt."""
    found = {_truth(without_lead(one, _LEADS)) for one in unmarked(answer)}
    return found.pop() if len(found) == 1 else None


def _truth(text: str) -> bool | None:
    said: set[bool | None] = set()
    if found := _FIRST.match(text):
        word = (found["word"] or found["no"]).lower()
        said.add((word not in _FALSE) != bool(found["not"]))
    for found in _STATED.finditer(text):
        clause = CLAUSE.split(text[: found.start("word")])[-1]
        denials = len(NEGATED.findall(clause))
        either = re.match(r"\s+or\b", text[found.end() :])
        doubted = denials > 1 or either or _DOUBT.search(clause)
        said.add(None if doubted else (found["word"].lower() not in _FALSE) != bool(denials))
    return said.pop() if len(said) == 1 else None
