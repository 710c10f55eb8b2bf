"""Rank and sift: answers meet in random twos, then the best winner is set against the worst loser.

The recipe is that of UnifiedReward (arXiv 2503.05236), with these differences: each two are shown in both
orders, and where the verdicts differ they tie; ties and what cannot be read are left out and counted; ratings
are compared as numbers.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmalign.builders._candidates import Builder, Group, Made, Paired
from mmalign.builders._judging import (
    ByScores,
    ManyPairJudge,
    PairJudge,
    ScoredOnce,
    SpeakingJudge,
    Spoken,
    Verdict,
    compares,
    read_rating,
    refuse_scoreless,
)
from mmalign.rewards import _scoring
from mmalign.types import Judge, UserError, derive_seed

SWAPPED = "rankings that changed with the order of the two answers"
TIED = "rankings without a better answer"
UNREAD = "rankings that could not be read"
UNRATED = "ratings that could not be read"
SINGLE = "answers left without another to meet"
UNRANKED = "prompts without a ranking that names a better answer"
NOT_HIGHER = "prompts whose best winner scores no higher than the worst loser"
UNSIFTED = "prompts without a rated winner and a rated loser"

Scores = Mapping[str, float]


@dataclass(frozen=True)
class RankAndSift(Builder):
    """Samples `n` answers per prompt, ranks n / 2 disjoint random twos of them, rates winners and losers, and
    keeps the best-rated winner against the worst-rated loser where it is rated higher by more than `min_gap`.

    The judge of the build ranks if it can compare two answers, by a verdict or in words; otherwise its scores
    do, and `even` is the largest distance of two scores that still tie. A judge that wants a reference is
    told the answer of the prompt's row.
    """

    tells: ClassVar[frozenset[str]] = frozenset({"reference"})

    n: int = 10  # answers sampled per prompt, an even number
    min_gap: float = 0.0  # what chosen must be rated above rejected, exclusive
    even: float = 0.0  # distance of two scores up to which they tie, where scores and not comparisons rank
    weight_gap: float | None = (
        None  # gap of a pair of weight 1, the weight being gap / weight_gap; null: all 1
    )

    def __post_init__(self) -> None:
        if self.n < 2 or self.n % 2:
            raise ValueError(f"n: must be an even number from 2 on, got {self.n}")
        for name, value in (("min_gap", self.min_gap), ("even", self.even)):
            if value < 0:
                raise ValueError(f"{name}: must be 0 or more, got {value:g}")
        if self.weight_gap is not None and self.weight_gap <= 0:
            raise ValueError(f"weight_gap: must be above 0, got {self.weight_gap:g}")

    def ready(self, judge: Judge) -> None:
        """Load the judge. Raises UserError for one that neither scores nor speaks, and for `even` beside one
        that compares by itself."""
        if not isinstance(judge, SpeakingJudge):
            refuse_scoreless(judge, "rank_and_sift")
        if self.even > 0 and compares(judge):
            raise UserError(
                f"builder.even: {self.even:g} is read only where scores rank, and judge "
                f"{type(judge).__name__} compares two answers itself; remove it"
            )
        _scoring.ready(judge, self.tells)

    def pair(self, groups: Sequence[Group], judge: Judge, seed: int) -> list[Paired]:
        """Rank and sift every group; the twos of a group are drawn from `seed` and its id."""
        return [self._paired(group, judge, seed) for group in groups]

    def _paired(self, group: Group, judge: Judge, seed: int) -> Paired:
        if not compares(judge):
            judge = ScoredOnce(judge, group)
        winners, losers, counts = self._ranked(group, judge, seed)
        scores: list[Scores | None] = [None] * len(group.answers)
        if not winners:
            counts[UNRANKED] += 1
            return Paired(tuple(scores), counts=counts)
        for place, found in _rated(group, sorted(winners + losers), judge).items():
            scores[place] = found
            counts[UNRATED] += found is None
        totals = {place: own[_scoring.TOTAL] for place, own in enumerate(scores) if own is not None}
        rated = [[place for place in side if place in totals] for side in (winners, losers)]
        if not all(rated):
            counts[UNSIFTED] += 1
            return Paired(tuple(scores), counts=+counts)
        best = max(rated[0], key=lambda place: totals[place])
        worst = min(rated[1], key=lambda place: totals[place])
        gap = totals[best] - totals[worst]
        if gap <= self.min_gap:
            counts[NOT_HIGHER] += 1
            return Paired(tuple(scores), counts=+counts)
        weight = 1.0 if self.weight_gap is None else gap / self.weight_gap
        return Paired(tuple(scores), (Made(best, worst, gap, weight),), +counts)

    def _ranked(self, group: Group, judge: Judge, seed: int) -> tuple[list[int], list[int], Counter[str]]:
        """Places of winners and losers, in the order of the twos, and counts of twos without them."""
        order = list(range(len(group.answers)))
        random.Random(derive_seed(seed, 0, group.id, "rank")).shuffle(order)
        twos = list(zip(order[::2], order[1::2], strict=False))
        counts = Counter({SINGLE: len(order) % 2})
        winners: list[int] = []
        losers: list[int] = []
        verdicts = _verdicts(judge, self.even, group, twos)
        for (first, second), (straight, turned) in zip(twos, verdicts, strict=True):
            reason, won = _winner(first, second, straight, turned)
            if reason is not None:
                counts[reason] += 1
                continue
            winners.append(won)
            losers.append(second if won == first else first)
        return winners, losers, +counts


def _verdicts(
    judge: Judge, even: float, group: Group, twos: Sequence[tuple[int, int]]
) -> list[tuple[Verdict | None, Verdict | None]]:
    """What the judge says of every two, shown in this order and the other way round."""
    orders = [order for first, second in twos for order in ((first, second), (second, first))]
    shown = [(group.answers[first], group.answers[second]) for first, second in orders]
    if isinstance(judge, ManyPairJudge):
        found = judge.compare_many([group.prompt] * len(shown), shown, [group.told] * len(shown))
    else:
        one = _comparing(judge, even)
        found = [one.compare(group.prompt, *two) for two in shown]
    return list(zip(found[::2], found[1::2], strict=True))


def _comparing(judge: Judge, even: float) -> PairJudge:
    if isinstance(judge, PairJudge):
        return judge
    return Spoken(judge) if isinstance(judge, SpeakingJudge) else ByScores(judge, even)


def _winner(
    first: int, second: int, straight: Verdict | None, other: Verdict | None
) -> tuple[str | None, int]:
    """Why neither of two answers won, or None and the place of the winner, from the verdicts in both
    orders."""
    turned = _turned(other)
    if straight is None or turned is None:
        return UNREAD, first
    if straight != turned:
        return SWAPPED, first
    if straight == "tie":
        return TIED, first
    return None, first if straight == "first" else second


def _turned(verdict: Verdict | None) -> Verdict | None:
    """The verdict on two answers as told when they were shown the other way round."""
    if verdict == "first":
        return "second"
    return "first" if verdict == "second" else verdict


def _rated(group: Group, places: Sequence[int], judge: Judge) -> dict[int, Scores | None]:
    """Scores of the answers at these places; None where a judge's words hold no rating."""
    if isinstance(judge, SpeakingJudge):
        said = {place: read_rating(judge.rate(group.prompt, group.answers[place])) for place in places}
        return {p: None if value is None else {_scoring.TOTAL: float(value)} for p, value in said.items()}
    answers = [group.answers[place] for place in places]
    num = len(places)
    prompts, told = [group.prompt] * num, [group.told] * num
    found = _scoring.score_readable(judge, prompts, answers, [group.id] * num, told)
    return dict(zip(places, found, strict=True))
