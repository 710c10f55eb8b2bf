"""Best of n: all samples to a prompt are scored, and pairs are chosen by the distance of their scores."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from mmalign.builders._candidates import Builder, Group, Made, Paired
from mmalign.builders._judging import refuse_scoreless
from mmalign.data._pairing import Pair, PairRule, choose
from mmalign.rewards import _scoring
from mmalign.types import Judge

ALIKE = "prompts whose answers all score alike"
TIES = "pairs whose two sides score alike"
UNREAD = "answers on which the judge's verdict could not be read"
BETWEEN = "pairs with a side between bad and good"


@dataclass(frozen=True)
class BestOfN(Builder):
    """Samples `n` answers per prompt and pairs them by their scores.

    `strategy`: `best_worst` gives one pair per prompt, `adjacent` pairs each answer with the next in the
    order of scores, `all` every two, `threshold` every answer scoring `good` or more with every one scoring
    `bad` or less. `by`, `fewer`, `policy` and `min_gap` are those of ranked lists: which scores decide, of
    which less is better, how several decide, and the least distance of a pair. A prompt whose answers all
    score alike gives no pair. An answer on which the judge's verdict cannot be read counts for nothing. A
    judge that wants a reference is told the answer of the prompt's row.
    """

    tells: ClassVar[frozenset[str]] = frozenset({"reference"})

    n: int = 8  # answers sampled per prompt
    # which answers become pairs: one per prompt, neighbours in the order, all twos, good with bad
    strategy: Literal["best_worst", "adjacent", "all", "threshold"] = "best_worst"
    by: tuple[str, ...] = (_scoring.TOTAL,)  # names of the judge's scores that decide
    fewer: tuple[str, ...] = ()  # those of them of which less is better
    # how several scores decide: by their mean, by votes, or by the mean unless one score objects
    policy: Literal["mean", "majority", "veto"] = "mean"
    min_gap: float = 0.0  # least distance of a pair, in units of the mean score, or in votes under majority
    good: float | None = None  # of threshold: mean score from which an answer is good
    bad: float | None = None  # of threshold: mean score up to which an answer is bad
    ties: Literal["drop", "keep"] = "drop"  # keep writes rows marked as ties, which `data.ties` decides on
    weight_gap: float | None = (
        None  # gap of a pair of weight 1, the weight being gap / weight_gap; null: all 1
    )

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"n: must be 2 or more, got {self.n}")
        threshold = self.strategy == "threshold"
        for name, value in (("good", self.good), ("bad", self.bad)):
            if (value is None) == threshold:
                rule = "is needed by" if threshold else "is only read with"
                raise ValueError(f"{name}: {rule} strategy threshold, got {value}")
        if self.good is not None and self.bad is not None and self.good <= self.bad:
            raise ValueError(f"good: must be above bad {self.bad:g}, got {self.good:g}")
        if threshold and self.policy == "majority":
            raise ValueError(
                "policy: majority compares answers by votes; strategy threshold needs mean or veto"
            )
        if self.ties == "keep" and self.strategy not in ("adjacent", "all"):
            raise ValueError(f"ties: keep does nothing with strategy {self.strategy}; use adjacent or all")
        if self.weight_gap is not None and self.weight_gap <= 0:
            raise ValueError(f"weight_gap: must be above 0, got {self.weight_gap:g}")
        if self.weight_gap is not None and self.ties == "keep":
            raise ValueError("weight_gap: gives ties the weight 0; use ties: drop or weight_gap: null")
        _ = self.rule

    @property
    def rule(self) -> PairRule:
        """What ranked lists of a file are paired by."""
        strategy = "all" if self.strategy == "threshold" else self.strategy
        return PairRule(strategy, self.by, self.fewer, self.policy, self.min_gap)

    def ready(self, judge: Judge) -> None:
        """Load the judge. Raises UserError for one without scores."""
        refuse_scoreless(judge, "best_of_n")
        _scoring.ready(judge, self.tells)

    def pair(self, groups: Sequence[Group], judge: Judge, seed: int) -> list[Paired]:
        """Score all answers of all groups in one go, then pair each group's; nothing here is random."""
        prompts = [group.prompt for group in groups for _ in group.answers]
        names = [group.id for group in groups for _ in group.answers]
        answers = [answer for group in groups for answer in group.answers]
        told = [group.told for group in groups for _ in group.answers]
        scores = iter(_scoring.score_readable(judge, prompts, answers, names, told))
        return [self._paired(list(itertools.islice(scores, len(group.answers)))) for group in groups]

    def _paired(self, given: Sequence[Mapping[str, float] | None]) -> Paired:
        read = {place: own for place, own in enumerate(given) if own is not None}
        unread = Counter({UNREAD: len(given) - len(read)})
        if len(read) < 2:
            return Paired(tuple(given), counts=+unread)
        scores, places = list(read.values()), list(read)
        choice = choose(scores, self.rule)
        values = [[own[name] for name in self.by] for own in scores]
        if all(own == values[0] for own in values):
            return Paired(tuple(given), counts=+(unread + Counter({ALIKE: 1})))
        counts = unread + Counter({f"pairs: {reason}": count for reason, count in choice.left_out.items()})
        kept = [pair for pair in choice.pairs if self._outside(pair, scores)]
        counts[BETWEEN] += len(choice.pairs) - len(kept)
        made = [Made(places[p.chosen], places[p.rejected], p.gap, self._weight(p.gap)) for p in kept]
        if self.ties == "keep":
            made += [Made(places[p.chosen], places[p.rejected], 0.0, tie=True) for p in choice.ties]
        else:
            counts[TIES] += len(choice.ties)
        return Paired(tuple(given), tuple(made), +counts)

    def _outside(self, pair: Pair, scores: Sequence[Mapping[str, float]]) -> bool:
        """True unless a side lies between the thresholds."""
        if self.good is None or self.bad is None:
            return True
        return (
            self._merit(scores[pair.chosen]) >= self.good and self._merit(scores[pair.rejected]) <= self.bad
        )

    def _merit(self, scores: Mapping[str, float]) -> float:
        turned = [-scores[name] if name in self.fewer else scores[name] for name in self.by]
        return sum(turned) / len(turned)

    def _weight(self, gap: float) -> float:
        return 1.0 if self.weight_gap is None else gap / self.weight_gap
