"""Rank and sift: both orders are asked, what cannot be read never counts, best winner against worst loser."""

import itertools
from typing import Any

import pytest
from builders.groups import Batched, Biased, Numbers, Talking, group

from mmalign.builders._candidates import Paired
from mmalign.builders.best_of_n import BestOfN
from mmalign.builders.rank_and_sift import (
    NOT_HIGHER,
    SINGLE,
    SWAPPED,
    TIED,
    UNRANKED,
    UNRATED,
    UNREAD,
    UNSIFTED,
    RankAndSift,
)
from mmalign.types import UserError


def made(judge: Any, *answers: str, seed: int = 0, name: str = "p", **fields: Any) -> Paired:
    (paired,) = RankAndSift(n=2, **fields).pair([group(*answers, name=name)], judge, seed)
    return paired


def test_the_best_winner_meets_the_worst_loser_whatever_the_twos() -> None:
    # 10 and 9 win any two they are in unless they meet; the worst loser is 1 unless 1 met nobody better
    for seed in range(20):
        (pair,) = made(Numbers(), "4", "10", "1", "6", seed=seed).pairs
        assert (pair.chosen, pair.rejected, pair.gap) == (1, 2, 9.0)


def test_numbers_compare_as_numbers() -> None:
    """As texts "10" would be less than "9"."""
    (pair,) = made(Talking(), "9", "10").pairs
    assert (pair.chosen, pair.rejected) == (1, 0)


def test_a_verdict_that_follows_the_order_is_a_tie() -> None:
    judge = Biased(from_here=5.0)
    paired = made(judge, "1", "2")
    assert paired.pairs == () and paired.counts == {SWAPPED: 1, UNRANKED: 1}
    assert paired.scores == (None, None)
    (pair,) = made(judge, "1", "6").pairs
    assert (pair.chosen, pair.rejected, pair.gap) == (1, 0, 5.0)


def test_ties_and_what_cannot_be_read_are_counted() -> None:
    assert made(Biased(), "3", "3").counts == {TIED: 1, UNRANKED: 1}
    assert made(Biased(), "?", "3").counts == {UNREAD: 1, UNRANKED: 1}
    assert made(Talking(), "x", "8").counts == {UNREAD: 1, UNRANKED: 1}
    assert made(Numbers(), "3", "4", even=1.0).counts == {TIED: 1, UNRANKED: 1}


def test_a_rating_that_cannot_be_read_is_no_zero() -> None:
    """7 beats 3 but gets no rating: with a 0 it would have been taken for the worse one."""
    paired = made(Talking(), "7", "3")
    assert paired.pairs == () and paired.counts == {UNRATED: 1, UNSIFTED: 1}
    assert dict(enumerate(paired.scores))[1] == {"score": 3.0}
    for seed in range(10):
        (pair,) = made(Talking(), "7", "3", "8", "2", seed=seed).pairs
        assert pair.chosen == 2 and pair.rejected in (1, 3)


class Contrary(Biased):
    """Compares the other way round than it scores."""

    def compare(self, prompt: Any, first: Any, second: Any) -> str | None:
        return super().compare(prompt, second, first)


def test_a_winner_that_scores_no_higher_makes_no_pair() -> None:
    assert made(Contrary(), "1", "2").counts == {NOT_HIGHER: 1}
    assert made(Numbers(), "1", "2", min_gap=1.0).counts == {NOT_HIGHER: 1}
    assert made(Numbers(), "1", "2.5", min_gap=1.0).pairs[0].gap == 1.5


def test_an_odd_answer_is_left_over_and_counted() -> None:
    paired = made(Numbers(), "1", "2", "3")
    assert paired.counts == {SINGLE: 1} and len(paired.pairs) == 1
    assert [one is None for one in paired.scores].count(True) == 1


def test_twos_are_random_by_prompt_and_seed_and_nothing_else() -> None:
    answers = [str(n) for n in range(12)]

    def met(seed: int, name: str) -> frozenset[int]:
        """Places of the winners, which tell which twos met."""
        paired = made(Numbers(), *answers, seed=seed, name=name)
        assert paired == made(Numbers(), *answers, seed=seed, name=name)
        builder = RankAndSift(n=2)
        winners, losers, _ = builder._ranked(group(*answers, name=name), Numbers(), seed)
        assert sorted(winners + losers) == list(range(12))
        return frozenset(winners)

    assert len({met(seed, name) for seed, name in itertools.product(range(3), "ab")}) > 3


def test_scores_that_rank_are_asked_for_once() -> None:
    judge = Batched()
    (pair,) = made(judge, "1", "2", "3", "4").pairs
    assert judge.calls == [4]
    assert (pair.chosen, pair.rejected) in {(3, 0), (3, 1), (3, 2)} and pair.gap == 4 - (pair.rejected + 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"n": 3}, "n: must be an even number"), ({"even": -1.0}, "even: must be 0 or more")],
)
def test_bad_settings_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RankAndSift(**fields)


def test_a_judge_that_cannot_rate_is_refused() -> None:
    class Comparing:
        def compare(self, prompt: Any, first: Any, second: Any) -> str:
            return "tie"

    for builder, judge in ((RankAndSift(), Comparing()), (BestOfN(), Talking())):
        with pytest.raises(UserError, match="has no method score, which builder"):
            builder.ready(judge)
    RankAndSift().ready(Talking())


def test_even_is_refused_where_no_score_ranks() -> None:
    with pytest.raises(UserError, match="builder.even: 0.5 is read only where scores rank"):
        RankAndSift(even=0.5).ready(Biased())
