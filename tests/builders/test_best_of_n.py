"""Best of n: which pairs the strategies choose, what is left out and counted, and what is refused."""

from typing import Any

import pytest
from builders.groups import Batched, Numbers, group

from mmalign.builders._candidates import EMPTY, EQUAL, Made, Paired, distinct
from mmalign.builders.best_of_n import ALIKE, BETWEEN, TIES, BestOfN
from mmalign.types import UserError


def made(*answers: str, **fields: Any) -> Paired:
    """What becomes of one group."""
    (paired,) = BestOfN(n=2, **fields).pair([group(*answers)], Numbers(), 0)
    return paired


def sides(paired: Paired) -> list[tuple[int, int]]:
    return [(one.chosen, one.rejected) for one in paired.pairs]


def test_the_best_meets_the_worst() -> None:
    paired = made("2", "5", "-1", "3")
    assert paired.pairs == (Made(1, 2, 6.0),)
    assert paired.scores == ({"score": 2}, {"score": 5}, {"score": -1}, {"score": 3})
    assert not paired.counts


def test_adjacent_and_all() -> None:
    assert sides(made("2", "5", "3", strategy="adjacent")) == [(1, 2), (2, 0)]
    assert sides(made("2", "5", "3", strategy="all")) == [(1, 2), (1, 0), (2, 0)]


def test_threshold_pairs_every_good_with_every_bad_answer() -> None:
    # 6 and 5 are good, 1 and 0 bad, 3 neither: 4 of the 10 pairs are left
    paired = made("6", "3", "1", "5", "0", strategy="threshold", good=5, bad=1)
    assert sorted(sides(paired)) == [(0, 2), (0, 4), (3, 2), (3, 4)]
    assert paired.counts == {BETWEEN: 6}


def test_small_gaps_and_ties_are_counted() -> None:
    paired = made("1", "1", "1.5", "3", strategy="all", min_gap=1.0)
    assert sides(paired) == [(3, 2), (3, 0), (3, 1)]
    assert paired.counts[TIES] == 1 and paired.counts.total() == 3, "two pairs are closer than the gap"
    kept = made("1", "1", "3", strategy="all", ties="keep")
    assert kept.pairs[-1] == Made(0, 1, 0.0, tie=True) and not kept.counts


def test_a_group_that_scores_alike_gives_nothing() -> None:
    for fields in ({}, {"strategy": "all", "ties": "keep"}):
        paired = made("2", "2", "2", **fields)
        assert paired.pairs == () and paired.counts == {ALIKE: 1}


def test_several_scores_decide() -> None:
    # means 1.5, 2.0, 1.0; the votes between the last two are one against one
    by = {"by": ("score", "second"), "strategy": "all"}
    assert sides(made("1 2", "3 1", "0 2", **by)) == [(1, 0), (1, 2), (0, 2)]
    voted = made("1 2", "3 1", "0 2", **by, policy="majority")
    assert sides(voted) == [(0, 2)] and voted.counts == {TIES: 2}
    assert sides(made("1 5", "2 4", **by, fewer=("second",))) == [(1, 0)]


def test_weights_follow_the_gap() -> None:
    paired = made("0", "1", "4", strategy="adjacent", weight_gap=2.0)
    assert [(one.gap, one.weight) for one in paired.pairs] == [(3.0, 1.5), (1.0, 0.5)]


def test_all_groups_are_scored_in_one_call() -> None:
    judge = Batched()
    groups = [group("1", "2", name="a"), group("5", "3", "4", name="b")]
    found = BestOfN().pair(groups, judge, 0)
    assert judge.calls == [5]
    assert [sides(one) for one in found] == [[(1, 0)], [(0, 1)]]


def test_a_missing_score_is_refused() -> None:
    with pytest.raises(UserError, match="has no score 'beauty' to choose pairs by; it has score"):
        made("1", "2", by=("beauty",))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n": 1}, "n: must be 2 or more"),
        ({"strategy": "threshold", "good": 1.0}, "bad: is needed by strategy threshold"),
        ({"good": 1.0}, "good: is only read with strategy threshold"),
        ({"strategy": "threshold", "good": 1.0, "bad": 1.0}, "good: must be above bad"),
        ({"ties": "keep"}, "ties: keep does nothing with strategy best_worst"),
        ({"strategy": "all", "ties": "keep", "weight_gap": 1.0}, "weight_gap: gives ties the weight 0"),
        ({"weight_gap": 0.0}, "weight_gap: must be above 0"),
        ({"min_gap": -1.0}, "min_gap: must be 0 or more"),
    ],
)
def test_settings_that_contradict_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BestOfN(**fields)


def test_equal_and_empty_answers_are_dropped_and_counted() -> None:
    kept, dropped = distinct(group("a", " ", "b", "a\n", "", "c"))
    assert [part.data for part in kept.answers] == ["a", "b", "c"] and kept.seeds == (100, 102, 105)
    assert dropped == {EMPTY: 2, EQUAL: 1}
