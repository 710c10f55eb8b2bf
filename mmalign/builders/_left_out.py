"""What builds left out, counted by reason and summed by what is counted: prompts, answers, pairs.

A reason begins with what it counts, "answers without any text": "rows" and "prompts" are the prompts that the
build read, and "made rows" the pairs, or rows, that it would have written. What is counted in one unit adds
up with no other: the answers to a prompt may all be left out, then so is the prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

PROMPTS = "prompts"
NOTHING = "prompts of which no answer or pair was left"
"""Counted where no reason is about the prompt itself, so that prompts add up to all that were read."""
_SAME = {"rows": PROMPTS, "made": "pairs"}


def unit_of(reason: str) -> str:
    """What a reason counts: prompts, answers, pairs and so on."""
    first = reason.split()[0].strip(":,")
    return _SAME.get(first, first)


def of_prompt(counts: Mapping[str, int], rows: int) -> Counter[str]:
    """What was left out of one prompt, of which so many rows stay: the prompt too if none does."""
    found = +Counter(counts)
    if not rows and PROMPTS not in map(unit_of, found):
        found[NOTHING] = 1
    return found


def in_all(counts: Mapping[str, int]) -> dict[str, int]:
    """The sum of each unit, prompts first. With the prompts of which rows stay, its prompts are all that the
    build read."""
    found: Counter[str] = Counter()
    for reason, count in counts.items():
        found[unit_of(reason)] += count
    return {unit: found[unit] for unit in sorted(found, key=_place)}


def lines(counts: Mapping[str, int]) -> list[str]:
    """The counts by reason in plain lines, prompts first, and their sums in a last one."""
    ordered = sorted(counts, key=lambda reason: (_place(unit_of(reason)), reason))
    told = [f"left out ({reason}): {counts[reason]}" for reason in ordered]
    sums = ", ".join(f"{unit} {count}" for unit, count in in_all(counts).items())
    return [*told, f"left out in all: {sums}"] if told else []


def most_often(counts: Mapping[str, int]) -> str | None:
    """The reason that was counted most often and says why."""
    said = {reason: count for reason, count in counts.items() if reason != NOTHING}
    return max(sorted(said), key=lambda reason: said[reason], default=None)


def _place(unit: str) -> tuple[bool, str]:
    return unit != PROMPTS, unit
