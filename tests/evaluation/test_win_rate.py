"""Win rates and their Wilson intervals against published and hand-worked values."""

import math

import numpy as np
import pytest

from mmalign.evaluation.win_rate import resampled, wilson, win_rate


@pytest.mark.parametrize(
    ("hits", "num", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17, 857), table I, score method without continuity correction
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_intervals(hits: int, num: int, low: float, high: float) -> None:
    assert wilson(hits / num, num) == pytest.approx((low, high), abs=5e-5)


def test_ties_count_one_half() -> None:
    # 3 wins, 1 loss, 2 ties of 6: rate 4/6, decided 3/4
    rate = win_rate([0, 0, 0, 1, 5, 5], [1, 2, 3, 0, 5, 5])
    assert (rate.wins, rate.losses, rate.num) == (3, 1, 6)
    assert rate.rate == pytest.approx(4 / 6)
    assert rate.ties == pytest.approx(2 / 6)
    assert rate.decided_rate == pytest.approx(3 / 4)
    # centre (2/3 + z^2/12) / (1 + z^2/6) = 0.60161, half width 0.30162
    assert (rate.low, rate.high) == pytest.approx((0.29999, 0.90323), abs=1e-5)


def test_only_ties() -> None:
    rate = win_rate([1.0] * 10, [1.0] * 10)
    assert rate.rate == 0.5 and rate.ties == 1.0 and rate.decided_rate is None
    assert rate.low == pytest.approx(1 - rate.high)


def test_swapping_the_models_mirrors_the_interval() -> None:
    base, tuned = [0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.1, 0.4, 0.4, 0.9]
    there, back = win_rate(base, tuned), win_rate(tuned, base)
    assert there.rate == pytest.approx(1 - back.rate)
    assert (there.low, there.high) == pytest.approx((1 - back.high, 1 - back.low))


def test_interval_with_ties_is_the_wider_one() -> None:
    # outcomes 1, 1/2, 0 with shares w, t, l have variance p (1 - p) - t / 4: below that of a yes or no
    rate = win_rate([0] * 40 + [1] * 60, [1] * 40 + [1] * 60)
    spread = math.sqrt(rate.rate * (1 - rate.rate) - rate.ties / 4) / math.sqrt(100)
    assert rate.high - rate.low > 2 * 1.96 * spread


@pytest.mark.parametrize(("base", "tuned"), [([], []), ([1.0], []), ([1.0], [math.nan])])
def test_refusals(base: list[float], tuned: list[float]) -> None:
    with pytest.raises(ValueError, match="as many|NaN"):
        win_rate(base, tuned)


def test_resampled_interval_is_that_of_drawing_prompts_anew() -> None:
    # two prompts, one won, one lost: 0, 1/2, 1 with 1/4, 1/2, 1/4
    assert resampled(1, 0, 1) == (0.0, 1.0)
    assert resampled(0, 7, 0) == (0.5, 0.5)
    assert resampled(9, 0, 0) == (1.0, 1.0)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(40, [20 / 40, 12 / 40, 8 / 40], size=100_000)
    rates = (drawn[:, 0] + drawn[:, 1] / 2) / 40
    assert resampled(20, 12, 8) == pytest.approx(np.quantile(rates, [0.025, 0.975]), abs=1 / 80)


def test_resampled_interval_is_narrower_with_ties_and_fits_many_prompts() -> None:
    rate = win_rate([0] * 40 + [1] * 60, [1] * 40 + [1] * 60)
    assert rate.resampled[1] - rate.resampled[0] < rate.high - rate.low
    spread = 1.96 * math.sqrt(0.25 / 1632)
    assert resampled(816, 0, 816) == pytest.approx((0.5 - spread, 0.5 + spread), abs=1e-3)
