"""Intervals: clusters are drawn together, two models' answers too, and nothing is claimed of a point."""

import random

import pytest

from mmalign.metrics._resampling import Figure, differences, figures
from mmalign.metrics._seam import Graded, Metric, Numbers, Question, Sums, ratio


class Right(Metric):
    """The share of right answers."""

    def ask(self) -> list[Question]:
        return []

    def grade(self, answers: object) -> list[Graded]:
        return []

    def values(self, sums: Sums) -> dict[str, Numbers]:
        return {
            "acc": ratio(sums["right"], sums["asked"]),
            "none": ratio(sums["x"], sums["y"]),
            "macro": sums.macro("right", "asked"),
        }


def items(right: list[int], clusters: int | None = None) -> list[Graded]:
    found = []
    for i, one in enumerate(right):
        group = "ab"[i % 2]
        counts = {"right": one, "asked": 1, f"right@{group}": one, f"asked@{group}": 1}
        found.append(Graded(str(i), counts, cluster="" if clusters is None else str(i % clusters)))
    return found


def test_an_interval_is_near_that_of_the_binomial() -> None:
    rng = random.Random(0)
    right = [int(rng.random() < 0.7) for _ in range(400)]
    acc = figures(Right(), items(right))["acc"]
    assert figures(Right(), items(right))["acc"] == acc  # the same draws every time
    share = sum(right) / 400
    half = 1.96 * (share * (1 - share) / 400) ** 0.5
    assert acc.value == pytest.approx(share) and acc.low is not None and acc.high is not None
    assert acc.low == pytest.approx(share - half, abs=0.01) and acc.high == pytest.approx(
        share + half, abs=0.01
    )


def test_repeats_of_one_picture_do_not_narrow_an_interval() -> None:
    right = [1, 0, 1, 1, 0, 1, 0, 1, 1, 1]
    alone = figures(Right(), items(right))["acc"]
    repeated = figures(Right(), items(right * 20, clusters=10))["acc"]
    free = figures(Right(), items(right * 20))["acc"]
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))
    assert free.low is not None and alone.low is not None and free.low > alone.low


def test_no_value_and_no_interval() -> None:
    found = figures(Right(), items([1, 1, 1]))
    assert found["none"] == Figure(None) and found["acc"] == Figure(1.0)


def test_means_over_groups_take_each_group_once() -> None:
    """Of group a one of one is right, of group b none of two: 1/2, not 1/3."""
    one, two = [{"right": 1, "asked": 1, "right@a": 1, "asked@a": 1}, {"asked": 1, "asked@b": 1}]
    found = figures(Right(), [Graded("0", one), Graded("1", two), Graded("2", two)])
    assert found["macro"].value == 0.5 and found["acc"].value == pytest.approx(1 / 3)


def test_differences_are_paired() -> None:
    rng = random.Random(1)
    base = [int(rng.random() < 0.5) for _ in range(200)]
    tuned = [1 if i % 10 == 0 else one for i, one in enumerate(base)]
    change = differences(Right(), items(base), items(tuned))["acc"]
    assert change.value == pytest.approx((sum(tuned) - sum(base)) / 200)
    alone = figures(Right(), items(base))["acc"]
    assert (
        change.low is not None
        and change.high is not None
        and alone.low is not None
        and alone.high is not None
    )
    assert change.low >= 0 and change.high - change.low < (alone.high - alone.low) / 2
    none = differences(Right(), items(base), items(base))["acc"]
    assert none == Figure(0.0)


def test_pictures_of_one_model_alone_do_not_widen_a_difference() -> None:
    """Clusters without an item that both answered are not drawn."""
    base = items([1, 0, 1, 1, 0, 1, 0, 1, 1, 1] * 3, clusters=30)
    tuned = items([0, 1, 1, 0, 1, 1], clusters=6)
    found = differences(Right(), base, tuned)["acc"]
    assert found == differences(Right(), base[:6], tuned)["acc"] and found.low is not None
    assert found == differences(Right(), base[:6], [*tuned, Graded("x", {"asked": 1.0})])["acc"]


def test_only_items_of_both_are_compared() -> None:
    base, tuned = items([1, 1, 0, 0]), items([1, 1, 1, 1])
    assert differences(Right(), base[:2], tuned)["acc"].value == 0
