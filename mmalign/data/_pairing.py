"""From scored answers to one prompt to pairs: which two are compared, and which of them is the better one.

Used for ranked lists of a file and for candidates sampled from a model alike.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmalign.types import UserError


@dataclass(frozen=True)
class PairRule:
    """How answers to one prompt become pairs.

    By votes (policy `majority`: Balanced-DPO, arXiv 2503.12575) each score that decides is for one side of a
    pair, and a balance of votes is a tie; `veto` takes the better mean, but no pair that any score judges the
    other way round.
    """

    # one pair of a list, each answer with the next in the order, or every two
    strategy: Literal["best_worst", "adjacent", "all"] = "best_worst"
    by: tuple[str, ...] = ()  # the scores that decide; none: "score", or "rank" where answers have no score
    fewer: tuple[str, ...] = ()  # those of them of which less is better; "rank" always is one
    # how several scores decide: by their mean, by votes, or by the mean unless one score objects
    policy: Literal["mean", "majority", "veto"] = "mean"
    min_gap: float = 0.0  # least distance of a pair, in units of the mean score, or in votes under majority

    def __post_init__(self) -> None:
        if self.strategy not in ("best_worst", "adjacent", "all"):
            raise ValueError(f"strategy: must be best_worst, adjacent or all, got {self.strategy!r}")
        if self.policy not in ("mean", "majority", "veto"):
            raise ValueError(f"policy: must be mean, majority or veto, got {self.policy!r}")
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by: must name each score once, got {list(self.by)}")
        if stray := [name for name in self.fewer if name not in self.by]:
            raise ValueError(f"fewer: {stray[0]!r} is not among the scores of by: {', '.join(self.by)}")
        if self.policy != "mean" and len(self.by) < 2:
            raise ValueError(f"policy: {self.policy} needs at least two scores in by, got {list(self.by)}")
        if not math.isfinite(self.min_gap) or self.min_gap < 0:
            raise ValueError(f"min_gap: must be 0 or more and finite, got {self.min_gap}")

    def __str__(self) -> str:
        """The rule in a few words, for the log."""
        by = f"by {', '.join(self.by)}" if self.by else "by score or rank"
        how = f" ({self.policy})" if len(self.by) > 1 else ""
        gap = f", at least {self.min_gap:g} apart" if self.min_gap else ""
        return f"{self.strategy} {by}{how}{gap}"


@dataclass(frozen=True)
class Pair:
    """Places of the better and of the worse answer in their list, and the distance between them; 0 in a
    tie, where the order of the list stands."""

    chosen: int
    rejected: int
    gap: float


@dataclass(frozen=True)
class Choice:
    """Pairs with a better side, pairs without one, and why others were left out."""

    pairs: tuple[Pair, ...]
    ties: tuple[Pair, ...]
    left_out: Counter[str] = field(default_factory=Counter)


def pairs_of(scores: Sequence[Mapping[str, float]], rule: PairRule) -> list[Pair]:
    """The pairs of answers with these scores that have a better side; `choose` also tells of the others."""
    return list(choose(scores, rule).pairs)


def choose(scores: Sequence[Mapping[str, float]], rule: PairRule) -> Choice:
    """Pairs, ties and counted reasons for one list of answers, in the order from best to worst.

    The order is that of the means; under `majority` that of the votes won less votes lost against all other
    answers. Equal answers keep the order of the list. Raises UserError for a missing or non-finite score and
    for fewer than two answers.
    """
    values = _values(scores, rule)
    merits = _merits(values, rule)
    order = sorted(range(len(values)), key=lambda place: (-merits[place], place))
    if rule.strategy == "best_worst":
        compared = [(order[0], order[-1])]
    elif rule.strategy == "adjacent":
        compared = list(itertools.pairwise(order))
    else:
        compared = list(itertools.combinations(order, 2))
    pairs: list[Pair] = []
    ties: list[Pair] = []
    left_out: Counter[str] = Counter()
    for first, second in compared:
        gap, reason = _compare(values[first], values[second], rule)
        if reason is not None:
            left_out[reason] += 1
        elif gap == 0:
            ties.append(Pair(min(first, second), max(first, second), 0.0))
        else:
            pairs.append(Pair(first, second, gap) if gap > 0 else Pair(second, first, -gap))
    return Choice(tuple(pairs), tuple(ties), left_out)


def _values(scores: Sequence[Mapping[str, float]], rule: PairRule) -> list[tuple[float, ...]]:
    """The deciding scores of every answer, turned so that more is better."""
    if len(scores) < 2:
        raise UserError(f"pairs need at least two answers, got {len(scores)}")
    by = rule.by or ("score",)
    if (
        not rule.by
        and all("rank" in named for named in scores)
        and not any("score" in named for named in scores)
    ):
        by = ("rank",)
    fewer = {"rank", *rule.fewer}
    found = []
    for place, named in enumerate(scores):
        missing = [name for name in by if name not in named]
        if missing:
            has = ", ".join(sorted(named)) or "none"
            raise UserError(f"answer {place}: has no score {missing[0]!r} to choose pairs by; it has {has}")
        broken = [name for name in by if not math.isfinite(named[name])]
        if broken:
            raise UserError(f"answer {place}: score {broken[0]!r} must be finite, got {named[broken[0]]}")
        found.append(tuple(-named[name] if name in fewer else named[name] for name in by))
    return found


def _merits(values: Sequence[tuple[float, ...]], rule: PairRule) -> list[float]:
    if rule.policy == "majority":
        return [sum(_votes(own, other) for other in values) for own in values]
    return [_mean(own) for own in values]


def _compare(own: tuple[float, ...], other: tuple[float, ...], rule: PairRule) -> tuple[float, str | None]:
    """By how much the first answer is better, or why the two make no pair. Equal scores are a tie whatever
    the least gap is."""
    gap: float = _votes(own, other) if rule.policy == "majority" else _mean(_apart(own, other))
    if rule.policy == "veto":
        signs = {a > b for a, b in zip(own, other, strict=True) if a != b}
        if len(signs) > 1:
            return gap, "one of the scores judges the other way round"
    close = math.isclose(abs(gap), rule.min_gap, rel_tol=1e-9)  # 0.3 and 0.2 are 0.1 apart
    if 0 < abs(gap) < rule.min_gap and not close:
        return gap, "closer than min_gap"
    return gap, None


def _votes(own: tuple[float, ...], other: tuple[float, ...]) -> int:
    """Scores in favour of the first answer less those in favour of the second."""
    return sum((a > b) - (a < b) for a, b in zip(own, other, strict=True))


def _apart(own: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(own, other, strict=True))


def _mean(values: tuple[float, ...]) -> float:
    return math.fsum(values) / len(values)
