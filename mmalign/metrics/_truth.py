"""Whether a written answer says yes or no, true or false. What is not clear is not read."""

from __future__ import annotations

import re

from mmalign.metrics._letters import CLAUSE, NEGATED, unmarked, without_lead

_LEADS = ("the answer is", "the correct answer is", "the best answer is", "answer:", "answer is")
_FALSE = frozenset(("no", "false", "incorrect", "untrue", "inaccurate"))
_WORD = (
    r"(?P<not>not\s+)?(?P<word>(?:yes|true|correct|false|incorrect|untrue|inaccurate)\b"
    r"|no(?=\W*$|\s*[,.;:!\n\u2013\u2014-]"  # not that of "no dog"
    r"|\s+(?:it|the|there|this|that|they|he|she|neither|not|only)\b))"
)
_ONE = r"(?!\s+(?:or|and)\b|\s*[/?])"
_FIRST = re.compile(_WORD + _ONE, re.IGNORECASE)
_LAST = re.compile(
    rf"(?P<before>[^.!\n]*)(?P<end>[.!][^\S\n]+|\n)\W*{_WORD}[^\w?]*$", re.IGNORECASE
)  # a line or sentence of its own
_ANSWERED = re.compile(
    r"\b(?:(?:answer|verdict|conclusion)(?:\s+(?:here|then|therefore))?\s*"
    r"(?:(?:is|was|would be|should be|must be)\b|[:=])"
    r"|i(?:\s+(?:would|will)|['\u2019](?:d|ll))?\s+(?:say|answer|conclude|choose|pick|select|go with)\b)"
    rf"\s*[:,]?\s*[\"'(\u201c\u2018]*{_WORD}{_ONE}",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"(?:\b(?:is|was|be|are)(?:n['\u2019]t)?|\w['\u2019]s):?\s+"
    r"(?P<how>(?:(?:not|never|indeed|therefore|thus|also|both|\w+ly)\s+)*)"
    r"(?P<word>true|correct|accurate|false|incorrect|untrue|inaccurate)\b",
    re.IGNORECASE,
)
_HALF = re.compile(
    r"\b(?:partially|partly|hardly|nearly|barely|scarcely|only|largely|mostly|mainly|necessarily|rarely"
    r"|potentially|supposedly|allegedly)\b",
    re.IGNORECASE,
)
_OPEN = re.compile(
    r"\s+(?:or|only|in part|to (?:some|a certain) (?:extent|degree)|and\s+(?:false|untrue|incorrect))\b"
    r"|\s*[/?]",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(?:whether|if|unsure|sure|maybe|perhaps|possibly|may|might|could|or)\b", re.IGNORECASE
)
_GIVEN = re.compile(r"\W*(?:if|unless)\b", re.IGNORECASE)
_NEAR = 300  # letters of an answer around a word that tell what is said of it
_SENTENCE = re.compile(r"[.!?\n]")


def truth(answer: str) -> bool | None:
    """True for yes and true, False for no and false, as the first word, as what something is said to be ("the
    statement is not true"), as what the answer is said to be, or as a last line or sentence of its own; None
    for neither, and for what contradicts itself, is in doubt or only half so."""
    found = {_truth(without_lead(one, _LEADS)) for one in unmarked(answer)}
    return found.pop() if len(found) == 1 else None


def _truth(text: str) -> bool | None:
    said: set[bool | None] = set()
    if found := _FIRST.match(text):
        said.add(_value(found))
    if found := _LAST.search(text[-_NEAR:]):
        doubted = found["end"] != "\n" and _DOUBT.search(found["before"])
        said.add(None if doubted else _value(found))
    for found in _ANSWERED.finditer(text):
        before = _before(text, found.start())
        clause = CLAUSE.split(before)[-1]
        doubted = NEGATED.search(clause) or _DOUBT.search(clause) or _GIVEN.match(_SENTENCE.split(before)[-1])
        said.add(None if doubted else _value(found))
    for found in _STATED.finditer(text):
        clause = CLAUSE.split(_before(text, found.start("word")))[-1]
        denials = len(NEGATED.findall(clause))
        half = _HALF.search(found["how"]) or _OPEN.match(text, found.end())
        doubted = denials > 1 or half or _DOUBT.search(clause)
        said.add(None if doubted else _is_true(found["word"]) != bool(denials))
    return said.pop() if len(said) == 1 else None


def _before(text: str, place: int) -> str:
    return text[max(0, place - _NEAR) : place]


def _value(found: re.Match[str]) -> bool:
    return _is_true(found["word"]) != bool(found["not"])


def _is_true(word: str) -> bool:
    return word.lower() not in _FALSE
