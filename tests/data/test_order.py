"""Order: every row once per epoch, the same for any number of processes, computable from the step alone."""

from collections import Counter
from collections.abc import Callable

import pytest

from mmalign.data._order import Order, Place
from mmalign.types import UserError


def _indices(order: Order, steps: range) -> list[int]:
    return [place.index for step in steps for place in order.step(step)]


def test_every_row_once_per_epoch_across_step_borders() -> None:
    order = Order(seed=3, sizes=(7,), batch=3)
    stream = _indices(order, range(7))  # 21 positions are exactly three epochs of 7
    for epoch in range(3):
        assert sorted(stream[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert stream[:7] != stream[7:14]
    epochs = [place.epoch for step in range(7) for place in order.step(step)]
    assert epochs == [0] * 7 + [1] * 7 + [2] * 7


def test_seed_changes_the_order_and_nothing_else_does() -> None:
    steps = range(10)
    first = _indices(Order(seed=1, sizes=(50,), batch=8), steps)
    assert first == _indices(Order(seed=1, sizes=(50,), batch=8), steps)
    assert first != _indices(Order(seed=2, sizes=(50,), batch=8), steps)
    assert first == _indices(Order(seed=1, sizes=(50,), batch=4), range(20))


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("sizes", [(20,), (20, 5, 9)])
def test_processes_share_the_same_steps(processes: int, sizes: tuple[int, ...]) -> None:
    whole = Order(seed=5, sizes=sizes, batch=8)
    parts = [Order(seed=5, sizes=sizes, batch=8, processes=processes, rank=r) for r in range(processes)]
    for step in (0, 1, 2, 9):
        shares = [part.step(step) for part in parts]
        assert all(shares)
        merged: list[Place] = [shares[i % processes][i // processes] for i in range(8)]
        assert merged == whole.step(step)


def test_any_step_is_computed_from_its_number_alone() -> None:
    order = Order(seed=5, sizes=(20, 5), batch=6, weights=(1.0, 3.0))
    straight = [order.step(step) for step in range(60)]
    for step in (59, 0, 31, 7):
        assert Order(seed=5, sizes=(20, 5), batch=6, weights=(1.0, 3.0)).step(step) == straight[step]


def test_weights_are_shares_of_the_samples_drawn() -> None:
    order = Order(seed=0, sizes=(30, 10), batch=10, weights=(1.0, 3.0))
    assert order.slots == (10, 30)
    places = [place for step in range(12) for place in order.step(step)]  # three epochs of 40 slots
    for epoch in range(3):
        drawn = Counter(place.source for place in places[40 * epoch : 40 * epoch + 40])
        assert drawn == {0: 10, 1: 30}
    # each source walks its own permutations without a gap: 30 draws of source 0 are one whole walk, 90 of
    # source 1 nine walks
    ours = [place.index for place in places if place.source == 0]
    assert sorted(ours) == list(range(30))
    theirs = [place for place in places if place.source == 1]
    assert [place.epoch for place in theirs] == [walk for walk in range(9) for _ in range(10)]
    for walk in range(9):
        assert sorted(place.index for place in theirs if place.epoch == walk) == list(range(10))


def test_the_mix_does_not_run_through_sources_one_after_the_other() -> None:
    order = Order(seed=0, sizes=(50, 50), batch=10)
    assert all(len({place.source for place in order.step(step)}) == 2 for step in range(10))


def test_without_weights_a_mix_holds_every_row_once() -> None:
    order = Order(seed=0, sizes=(7, 4, 2), batch=13)
    assert order.slots == (7, 4, 2)
    assert sorted((place.source, place.index) for place in order.step(2)) == [
        (source, index) for source, size in enumerate((7, 4, 2)) for index in range(size)
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": (3,), "batch": 4}, "train.batch 4 is larger than the data \\(3 rows\\)"),
        ({"sizes": (30,), "batch": 2, "processes": 3}, "smaller than the 3 processes"),
        (
            {"sizes": (5, 0), "batch": 2},
            r"^data\[1\]: no row can be used, and every source needs at least one$",
        ),
        ({"sizes": (5, 5), "batch": 2, "weights": (1.0,)}, "1 weights for 2 sources"),
        ({"sizes": (5, 5), "batch": 2, "weights": (1.0, 0.0)}, "above 0"),
        ({"sizes": (5, 5), "batch": 2, "weights": (1.0, float("nan"))}, "above 0"),
        ({"sizes": (5, 5), "batch": 2, "weights": (1000.0, 1.0)}, r"data\[1\]: its weight is too small"),
    ],
)
def test_impossible_orders_are_refused(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Order(seed=0, **options)


def anyone(index: int) -> bool:
    return True


def partner(order: Order, place: Place, fits: Callable[[int], bool], redraw: bool) -> int | None:
    return next(iter(order.partners(place, fits, redraw)), None)


def test_partner_is_the_next_sample_of_the_epoch() -> None:
    order = Order(seed=4, sizes=(6,), batch=6)
    places = order.step(0)
    walk = [place.index for place in places]
    partners = [partner(order, place, anyone, True) for place in places]
    assert partners == walk[1:] + walk[:1]
    later = {place.index: partner(order, place, anyone, True) for place in order.step(1)}
    assert later != dict(zip(walk, partners, strict=True))


def test_fixed_partner_is_the_same_in_every_epoch_and_never_the_sample() -> None:
    order = Order(seed=4, sizes=(6,), batch=6)
    epochs = [
        {place.index: partner(order, place, anyone, False) for place in order.step(step)} for step in range(3)
    ]
    assert epochs[0] == epochs[1] == epochs[2]
    assert sorted(epochs[0].values()) == list(range(6))
    assert all(index != other for index, other in epochs[0].items())


@pytest.mark.parametrize("redraw", [True, False])
def test_partner_is_the_next_that_fits(redraw: bool) -> None:
    order = Order(seed=4, sizes=(8,), batch=8)
    for place in order.step(0):
        found = partner(order, place, lambda index, own=place.index: index // 2 != own // 2, redraw)
        assert found is not None and found // 2 != place.index // 2
        assert partner(order, place, lambda index, own=place.index: index == own, redraw) is None
        nearest = partner(order, place, anyone, redraw)
        assert found == nearest or nearest is not None and nearest // 2 == place.index // 2


@pytest.mark.parametrize("redraw", [True, False])
def test_several_partners_follow_each_other(redraw: bool) -> None:
    order = Order(seed=4, sizes=(6,), batch=6)
    for place in order.step(0):
        found = order.partners(place, anyone, redraw, 4)
        assert found[0] == partner(order, place, anyone, redraw)
        assert len(set(found)) == 4 and place.index not in found
        some = order.partners(place, lambda index: index % 2 == 0, redraw, 3)
        assert some == [index for index in order.partners(place, anyone, redraw, 5) if index % 2 == 0][:3]
        assert sorted(order.partners(place, anyone, redraw, 9)) == sorted({*range(6)} - {place.index})


def test_partner_needs_two_rows() -> None:
    order = Order(seed=4, sizes=(1,), batch=1)
    with pytest.raises(UserError, match="two rows"):
        order.partners(order.step(0)[0], anyone, True)
