"""Changes from prompt to prompt: worked medians and intervals, what is visible, and digits that differ."""

import pytest

from mmalign.evaluation.changes import apart, changes
from mmalign.evaluation.comparison import Answered, Comparison
from mmalign.types import Part


def test_the_median_and_its_interval_by_the_sign_test() -> None:
    """Of ten values the second and the ninth enclose the median: P(Binomial(10, 1/2) <= 1) = 11 / 1024."""
    found = changes([(0.0, float(value)) for value in (9, 1, 10, 2, 3, 8, 4, 7, 5, 6)])
    assert (found.median, found.low, found.high) == (5.5, 2.0, 9.0)
    five = changes([(0.0, float(value)) for value in range(5)])  # 2 / 32 is too much: no interval
    assert (five.median, five.low, five.high) == (2.0, None, None)
    six = changes([(0.0, float(value)) for value in range(6)])  # 1 / 64: from the least to the largest
    assert (six.low, six.high) == (0.0, 5.0)


def test_visible_is_more_than_a_twentieth_of_the_bases_interquartile_range() -> None:
    base = [0.0, 1.0, 2.0, 3.0, 4.0]  # quartiles 1 and 3: changes above 0.1 are visible
    moved = [0.09, 0.11, -0.11, -0.09, 0.0]
    pairs = [(before, before + change) for before, change in zip(base, moved, strict=True)]
    found = changes([*pairs])
    assert found.least == pytest.approx(0.1)
    assert (found.gains, found.losses) == (1, 1)
    rising = [(before, before + 0.5) for before in base]
    assert (changes(rising).gains, changes(rising).losses) == (5, 0)
    assert (changes(rising, cost=True).gains, changes(rising, cost=True).losses) == (0, 5)


def test_where_the_base_is_all_alike_every_change_is_visible() -> None:
    assert changes([(1.0, 1.0 + 1e-9), (1.0, 1.0), (1.0, 0.0)]).gains == 1


def test_numbers_that_differ_are_shown_apart() -> None:
    assert apart(1.3751, 1.3753) == ("1.3751", "1.3753")
    assert apart(1.0, 1.0) == ("1.000", "1.000")
    assert apart(-0.5, 0.5) == ("\u22120.500", "0.500")
    assert apart(1.375, 1.37500001)[1] == "1.37500001"


def test_plain_lines_tell_means_apart() -> None:
    text = Part("text", "x")
    found = Comparison((Answered("r", "x", (), text, text, {"score": 1.3751}, {"score": 1.3753}),), 0)
    assert any("1.3751 ->   1.3753   wins 100.0%" in line for line in found.lines())
