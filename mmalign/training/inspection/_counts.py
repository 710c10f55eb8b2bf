"""Counting over rows: reasons against them, lengths, what is there twice, what leaks between the splits."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mmalign.data._digest import digest
from mmalign.training.inspection._look import Seen
from mmalign.training.inspection._reading import Fault, Part

_WORD = re.compile(r"[a-z_]{1,24}")  # what may stand in quotes in a rule: a role or a field, not a value
_NAMED = 3  # rows that are named, of each kind


@dataclass(frozen=True)
class Reason:
    """Rows that break one rule: how many, the first three by name, and the first one's message in full."""

    part: Part
    rule: str
    count: int
    rows: tuple[str, ...]
    example: str


@dataclass(frozen=True)
class Spread:
    """Smallest, middle, 95 % and largest of `count` whole numbers; ranks are rounded up to a value that
    occurs."""

    what: str
    kind: str
    count: int
    minimum: int
    median: int
    p95: int
    maximum: int


@dataclass(frozen=True)
class Repeats:
    """Rows that are in the data more than once, in whole, by prompt, or with both orders of their sides."""

    samples: int
    prompts: int
    conflicts: int
    conflict_rows: tuple[str, ...]


@dataclass(frozen=True)
class Sides:
    """Pairs: with equal sides, equal scores; and whose chosen response has more tokens than the rejected one,
    and fewer (None where responses are no tokens)."""

    pairs: int
    identical: int
    equal_scores: int
    chosen_longer: int | None
    chosen_shorter: int | None


@dataclass(frozen=True)
class Leak:
    """Held-out rows whose sample, or prompt, training rows have too; the first three beside one of those."""

    what: str
    count: int
    rows: tuple[str, ...]


# ---------------------------------------------------------------- reasons


def rule_of(reason: str, origin: str) -> str:
    """A reason without what only this row has: its name, numbers, and quoted values."""
    text = reason.replace(origin, "").lstrip(":, ") if origin else reason
    text = re.sub(r"\b(got|id) '[^']*'", r"\1 '…'", text)
    text = re.sub(r"'([^']*)'", lambda m: m[0] if _WORD.fullmatch(m[1]) else "'…'", text)
    text = re.sub(r'"[^"]*"', '"…"', text)
    return re.sub(r"(?:(?<!\w)-)?\d+(?:[.,:]\d+)*", "#", text)


def group_faults(faults: Sequence[Fault]) -> tuple[Reason, ...]:
    """Faults by part and rule, the commonest first."""
    groups: dict[tuple[Part, str], list[Fault]] = {}
    for fault in faults:
        rule = rule_of(fault.row.reason, fault.row.origin)
        groups.setdefault((fault.part, rule), []).append(fault)
    reasons = [
        Reason(
            part,
            rule,
            len(members),
            tuple(one.row.origin or one.row.id for one in members[:_NAMED]),
            members[0].row.reason,
        )
        for (part, rule), members in groups.items()
    ]
    return tuple(sorted(reasons, key=lambda one: (one.part != "training", -one.count, one.rule)))


# ---------------------------------------------------------------- lengths and sizes


def spread(what: str, kind: str, values: Iterable[int]) -> Spread:
    """The spread of at least one value."""
    ordered = sorted(values)

    def rank(share: float) -> int:
        return ordered[max(1, math.ceil(share * len(ordered))) - 1]

    return Spread(what, kind, len(ordered), ordered[0], rank(0.5), rank(0.95), ordered[-1])


def token_spreads(seen: Sequence[Seen]) -> tuple[Spread, ...]:
    """Per role and kind of token, and where there are several kinds, of their sum. Kinds of media that no row
    of a role holds are left out."""
    values: dict[tuple[str, str], list[int]] = {}
    for row in (row for one in seen for row in one.facts.rows):
        for kind, count in row.counts.items():
            values.setdefault((row.role, kind), []).append(count)
        if len(row.counts) > 1:
            values.setdefault((row.role, "all"), []).append(sum(row.counts.values()))
    values = {key: counts for key, counts in values.items() if any(counts) or key[1] == "response"}
    ordered = sorted(values, key=lambda key: [role for role, _ in values].index(key[0]))
    return tuple(spread(role, kind, values[role, kind]) for role, kind in ordered)


def media_spreads(seen: Sequence[Seen]) -> tuple[Spread, ...]:
    """Width, height and, of clips, frames of all distinct media per row."""
    media = [medium for one in seen for medium in one.facts.media]
    found = []
    for kind in sorted({medium.kind for medium in media}):
        own = [medium for medium in media if medium.kind == kind]
        found.append(spread(kind, "width", (medium.width for medium in own)))
        found.append(spread(kind, "height", (medium.height for medium in own)))
        if kind == "video":
            found.append(spread(kind, "frames", (medium.frames for medium in own)))
    return tuple(found)


def shortened(seen: Sequence[Seen]) -> dict[str, int]:
    """What had to be shortened or enlarged, counted by its name."""
    return dict(sorted(Counter(name for one in seen for name in one.facts.shortened).items()))


# ---------------------------------------------------------------- twice the same


def content_of(one: Seen) -> str:
    """The digest of all prompts and responses."""
    return digest({role: list(pairs) for role, pairs in one.facts.examples.items()})


def prompts_of(one: Seen) -> frozenset[str]:
    """Digests of a row's prompts; its roles may have different ones."""
    return frozenset(prompt for pairs in one.facts.examples.values() for prompt, _ in pairs)


def _sharing(seen: Sequence[Seen], key: Callable[[Seen], object]) -> int:
    """Rows of the file that share their key with another row; the halves of a split pair are one row."""
    rows: dict[object, set[str]] = {}
    for one in seen:
        rows.setdefault(key(one), set()).add(one.name)
    return len({name for names in rows.values() if len(names) > 1 for name in names})


def repeats(seen: Sequence[Seen]) -> Repeats:
    """What is there more than once among the training rows."""
    orders: dict[object, dict[object, list[str]]] = {}
    for one in seen:
        for unordered, order in _preference(one):
            orders.setdefault(unordered, {}).setdefault(order, []).append(one.name)
    conflicts = [
        name for both in orders.values() if len(both) > 1 for names in both.values() for name in names
    ]
    rows = tuple(dict.fromkeys(conflicts))
    return Repeats(_sharing(seen, content_of), _sharing(seen, prompts_of), len(rows), rows[:_NAMED])


def _preference(one: Seen) -> list[tuple[object, object]]:
    """What is compared, without its order, and the order or label it is given."""
    examples = one.facts.examples
    if {"chosen", "rejected"} <= set(examples):
        order = (examples["chosen"], examples["rejected"])
        return [(frozenset(order), order)] if order[0] != order[1] else []
    return [(pair, one.sample.labels.get("binary")) for pair in examples.get("completion", ())]


def sides(seen: Sequence[Seen]) -> Sides | None:
    """Counts over pairs; None if there are none."""
    pairs = [one for one in seen if {"chosen", "rejected"} <= set(one.facts.examples)]
    if not pairs:
        return None
    lengths = [
        {row.role: row.counts["response"] for row in one.facts.rows if "response" in row.counts}
        for one in pairs
    ]
    measured = [held for held in lengths if {"chosen", "rejected"} <= set(held)]
    longer = sum(held["chosen"] > held["rejected"] for held in measured)
    shorter = sum(held["chosen"] < held["rejected"] for held in measured)
    return Sides(
        len(pairs),
        sum(one.facts.examples["chosen"] == one.facts.examples["rejected"] for one in pairs),
        sum(_equal_scores(one) for one in pairs),
        longer if measured else None,
        shorter if measured else None,
    )


def _equal_scores(one: Seen) -> bool:
    scores = [one.sample.examples[role][0].labels.get("score") for role in ("chosen", "rejected")]
    return scores[0] is not None and scores[0] == scores[1]


# ---------------------------------------------------------------- between the parts


def leaks(seen: Sequence[Seen]) -> tuple[Leak, ...]:
    """Held-out rows that training rows repeat: the whole sample, or else a prompt with its media."""
    contents: dict[str, str] = {}
    prompts: dict[str, str] = {}
    for one in (one for one in seen if one.part == "training"):
        contents.setdefault(content_of(one), one.name)
        for prompt in prompts_of(one):
            prompts.setdefault(prompt, one.name)
    whole: dict[str, str] = {}
    shared: dict[str, str] = {}
    for one in (one for one in seen if one.part == "held-out"):
        alone = set(one.facts.examples) == {
            "prompt"
        }  # a sample is its prompt, which the other count tells of
        if not alone and (other := contents.get(content_of(one))) is not None:
            whole.setdefault(one.name, other)
            continue
        others = [prompts[prompt] for prompt in sorted(prompts_of(one)) if prompt in prompts]
        if others:
            shared.setdefault(one.name, others[0])
    found = (("sample", whole), ("prompt", shared))
    return tuple(Leak(what, len(rows), _named(rows.items())) for what, rows in found if rows)


def _named(rows: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"held-out {ours}, training {theirs}" for ours, theirs in list(rows)[:_NAMED])
