"""Answers as claims that are checked one by one, and pairs by how many are false: the parts of RLAIF-V
(arXiv 2405.17220) that ask no model themselves."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from fractions import Fraction

from mmalign.types import Message, Part

NO_CLAIM = "NONE"
"""What stands for the claims of an answer that makes none."""
YES, NO = ("yes", "Yes"), ("no", "No")
LIMITS = tuple(Fraction(step, 50) for step in range(50))
"""Shares of length that `length_limit` tries: 0, 0.02, ... 0.98."""

_ITEM = re.compile(r"(\d+)[.)]\s+(\S.*)")
_VERBS = (
    "is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must"
)  # fmt: skip
_PLACE = r"(?:in|on|at|according)\b[^,?]*,\s*"
_CHECKABLE = re.compile(rf"(?:{_PLACE})?(?:{_VERBS})(?:n?'t)?\s[^?]*\?", re.IGNORECASE)


def ask_claims(question: str, answer: str) -> tuple[Message, ...]:
    """The request to divide an answer, which stands at the end behind "Answer:", into claims."""
    return _request(
        "Below are a question about a picture or video and an answer to it. Divide the answer into its "
        "single claims about what is shown. A claim is one short sentence that says one thing and can be "
        "understood without the others. Leave out what the question says already, and opinions. Write the "
        "claims as a numbered list, one per line, and nothing else; if there are none, write "
        f"{NO_CLAIM}.",
        f"Question:\n{question}",
        f"Answer:\n{answer}",
    )


def ask_questions(claims: Sequence[str]) -> tuple[Message, ...]:
    """The request to turn claims, which stand at the end behind "Statements:", into questions."""
    listed = "\n".join(f"{number}. {claim}" for number, claim in enumerate(claims, 1))
    return _request(
        "Below are statements about a picture or video. Turn each into a question that is answered by yes "
        "if the statement is true and by no if it is not. Keep the order and the numbers, write one question "
        "per line, and nothing else.",
        f"Statements:\n{listed}",
    )


def _request(*paragraphs: str) -> tuple[Message, ...]:
    return (Message("user", (Part("text", "\n\n".join(paragraphs)),)),)


def read_claims(text: str) -> tuple[str, ...] | None:
    """The claims of a numbered list, () where it says that there are none; None for anything else."""
    return () if text.strip().rstrip(".") == NO_CLAIM else _items(text)


def read_questions(text: str, count: int) -> tuple[str, ...] | None:
    """The questions of a numbered list; None unless there are `count`, each to be answered by yes or no."""
    found = _items(text)
    if found is None or len(found) != count or not all(map(_CHECKABLE.fullmatch, found)):
        return None
    return found


def _items(text: str) -> tuple[str, ...] | None:
    """The items of a list numbered from 1, one per line; a first line that ends in a colon is left out."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":") and not _ITEM.fullmatch(lines[0]):
        lines = lines[1:]
    items = [_ITEM.fullmatch(line) for line in lines]
    found = [item[2] for number, item in enumerate(items, 1) if item is not None and int(item[1]) == number]
    return tuple(found) if found and len(found) == len(lines) else None


def score_of(verdicts: Sequence[bool]) -> int:
    """The score of an answer by whether each of its claims is true: the number of false ones, negative."""
    return sum(verdicts) - len(verdicts)


def choose_pairs(
    scores: Sequence[int | None], min_gap: int, most: int, rng: random.Random
) -> tuple[list[tuple[int, int]], int]:
    """Places of the sides of at most so many pairs, drawn among all whose scores are so far apart, the better
    first; and how many of these were not drawn. Answers without a score are in none."""
    scored = [(place, score) for place, score in enumerate(scores) if score is not None]
    fitting = [
        (first, second)
        for (first, better), (second, worse) in itertools.permutations(scored, 2)
        if better - worse >= min_gap
    ]
    drawn = sorted(rng.sample(fitting, min(most, len(fitting))))
    return drawn, len(fitting) - len(drawn)


def length_limit(lengths: Sequence[tuple[int, int]]) -> Fraction:
    """By how much of its length a rejected answer may be longer than the chosen one, given the words of both
    for every pair: of LIMITS that under which the mean lengths of the pairs that stay differ least, in parts
    of the rejected one's; of several the one that keeps most. The last of LIMITS where none keeps a pair."""
    best, found = None, LIMITS[-1]
    for limit in reversed(LIMITS):
        kept = [pair for pair in lengths if within(pair, limit)]
        chosen, rejected = (sum(side) for side in zip(*kept, strict=True)) if kept else (0, 0)
        if not rejected:
            continue
        gap = Fraction(abs(chosen - rejected), rejected)
        if best is None or gap < best:
            best, found = gap, limit
    return found


def within(lengths: tuple[int, int], limit: Fraction) -> bool:
    """True unless the rejected answer, of the second length, is longer by more than that share of it."""
    chosen, rejected = lengths
    return rejected == 0 or Fraction(rejected - chosen, rejected) <= limit


def words_of(text: str) -> int:
    """The length of an answer in words."""
    return len(text.split())
