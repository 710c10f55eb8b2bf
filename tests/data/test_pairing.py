"""Pairs from scored answers: strategies, gaps, ties, and several scores deciding together."""

import math
from typing import Any

import pytest

from mmalign.data._pairing import Pair, PairRule, choose, pairs_of
from mmalign.types import UserError


def scored(*values: float) -> list[dict[str, float]]:
    return [{"score": value} for value in values]


def places(pairs: Any) -> list[tuple[int, int]]:
    return [(pair.chosen, pair.rejected) for pair in pairs]


def test_strategies_on_four_answers() -> None:
    answers = scored(2.0, 5.0, 1.0, 3.5)
    assert pairs_of(answers, PairRule()) == [Pair(1, 2, 4.0)]
    assert pairs_of(answers, PairRule("adjacent")) == [Pair(1, 3, 1.5), Pair(3, 0, 1.5), Pair(0, 2, 1.0)]
    everything = pairs_of(answers, PairRule("all"))
    assert places(everything) == [(1, 3), (1, 0), (1, 2), (3, 0), (3, 2), (0, 2)]
    assert all(answers[p.chosen]["score"] - answers[p.rejected]["score"] == p.gap for p in everything)


def test_less_is_better_where_the_rule_says_so() -> None:
    ranks = [{"rank": 2.0}, {"rank": 1.0}, {"rank": 3.0}]
    assert pairs_of(ranks, PairRule()) == [Pair(1, 2, 2.0)]
    assert pairs_of(ranks, PairRule(by=("rank",))) == [Pair(1, 2, 2.0)]
    errors = [{"errors": 4.0}, {"errors": 0.0}]
    assert pairs_of(errors, PairRule(by=("errors",), fewer=("errors",))) == [Pair(1, 0, 4.0)]
    assert pairs_of([{"rank": 1.0, "score": 0.1}, {"rank": 2.0, "score": 0.9}], PairRule()) == [
        Pair(1, 0, 0.8)
    ]


def test_equal_scores_are_ties_in_the_order_of_the_list() -> None:
    found = choose(scored(3, 1, 3, 2), PairRule("all", min_gap=1.0))
    assert found.ties == (Pair(0, 2, 0.0),)
    assert places(found.pairs) == [(0, 3), (0, 1), (2, 3), (2, 1), (3, 1)]
    same = choose(scored(2, 2, 2), PairRule())
    assert (same.pairs, same.ties) == ((), (Pair(0, 2, 0.0),))


def test_the_least_gap_is_counted_and_reached_by_equality() -> None:
    found = choose(scored(3, 2, 0), PairRule("all", min_gap=2.0))
    assert places(found.pairs) == [(0, 2), (1, 2)]
    assert found.left_out == {"closer than min_gap": 1}
    assert len(pairs_of(scored(0.3, 0.2), PairRule(min_gap=0.1))) == 1  # 0.09999999999999998 in binary


def test_a_majority_votes_on_each_pair() -> None:
    """Two of three scores prefer the second answer, although the mean prefers the first."""
    answers = [{"a": 9.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 2.0, "c": 2.0}]
    by = ("a", "b", "c")
    assert pairs_of(answers, PairRule(by=by)) == [Pair(0, 1, 2.0)]
    assert pairs_of(answers, PairRule(by=by, policy="majority")) == [Pair(1, 0, 1.0)]
    strict = choose(answers, PairRule(by=by, policy="majority", min_gap=2))
    assert (strict.pairs, sum(strict.left_out.values())) == ((), 1)
    balanced = choose(answers, PairRule(by=("a", "b"), policy="majority"))
    assert (balanced.pairs, balanced.ties) == ((), (Pair(0, 1, 0.0),))


def test_votes_that_run_in_a_circle_give_no_best_answer_but_pairs() -> None:
    """Each answer beats the next by two votes to one: all are equal in votes won, no pair is a tie."""
    circle = [{"a": 3.0, "b": 1.0, "c": 2.0}, {"a": 2.0, "b": 3.0, "c": 1.0}, {"a": 1.0, "b": 2.0, "c": 3.0}]
    rule = PairRule("all", by=("a", "b", "c"), policy="majority")
    assert set(places(pairs_of(circle, rule))) == {(0, 1), (1, 2), (2, 0)}


def test_a_veto_needs_no_score_against() -> None:
    answers = [{"a": 5.0, "b": 1.0}, {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0}]
    found = choose(answers, PairRule("all", by=("a", "b"), policy="veto"))
    assert places(found.pairs) == [(0, 2), (1, 2)]
    assert found.left_out == {"one of the scores judges the other way round": 1}
    assert choose([answers[2]] * 2, PairRule(by=("a", "b"), policy="veto")).ties == (Pair(0, 1, 0.0),)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"strategy": "worst"}, "strategy: must be best_worst, adjacent or all, got 'worst'"),
        ({"policy": "vote"}, "policy: must be mean, majority or veto, got 'vote'"),
        ({"by": ("a", "a")}, "by: must name each score once"),
        ({"by": ("a",), "fewer": ("b",)}, "fewer: 'b' is not among the scores of by: a"),
        ({"policy": "veto"}, "policy: veto needs at least two scores in by"),
        ({"min_gap": -1.0}, "min_gap: must be 0 or more"),
        ({"min_gap": math.inf}, "min_gap: must be 0 or more and finite"),
    ],
)
def test_rules_that_mean_nothing_are_refused(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        PairRule(**options)


def test_scores_that_decide_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="answer 1: has no score 'a' to choose pairs by; it has score"):
        pairs_of([{"a": 1.0}, {"score": 1.0}], PairRule(by=("a",)))
    with pytest.raises(UserError, match="answer 0: score 'score' must be finite, got nan"):
        pairs_of(scored(math.nan, 1.0), PairRule())
    with pytest.raises(UserError, match="at least two answers, got 1"):
        pairs_of(scored(1.0), PairRule())
