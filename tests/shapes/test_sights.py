"""Described scenes: the streams are disjoint, a number always gives the same scene, and shapes keep apart."""

from itertools import combinations

import numpy as np
import pytest

from mmalign.shapes.sights import (
    ALL_THINGS,
    HELD_OUT,
    PICTURE,
    Split,
    Thing,
    apart,
    are_companions,
    companion_of,
    is_held_out,
    kept_for,
    render_sight,
    sample_sight,
)

SPLITS: tuple[Split, ...] = ("training", "validation", "heldout", "novel")
SIGHTS = {split: [sample_sight(split, 0, number) for number in range(300)] for split in SPLITS}


def test_the_same_number_gives_the_same_scene_and_others_differ() -> None:
    assert sample_sight("training", 0, 5) == SIGHTS["training"][5]
    assert len({sight for sights in SIGHTS.values() for sight in sights}) == 1200
    assert sample_sight("training", 1, 5) != SIGHTS["training"][5]


def test_a_companion_has_the_next_kind_and_the_colour_after_the_next() -> None:
    assert companion_of(Thing("circle", "red")) == Thing("square", "blue")
    assert companion_of(Thing("cross", "orange")) == Thing("circle", "green")
    assert len({companion_of(thing) for thing in ALL_THINGS}) == len(ALL_THINGS) == 30


def test_streams_of_several_things_share_no_set_of_things() -> None:
    sets = {
        split: {frozenset(sight.things) for sight in sights if len(sight.items) > 1}
        for split, sights in SIGHTS.items()
    }
    assert all(not sets[a] & sets[b] for a, b in combinations(SPLITS, 2))
    assert min(len(found) for found in sets.values()) > 100


def test_pairs_kept_for_a_stream_are_about_a_sixth_and_occur_nowhere_else() -> None:
    kept = [kept_for(a, b) for a, b in combinations(ALL_THINGS, 2)]
    assert 0.10 < (kept.count("validation") + kept.count("heldout")) / len(kept) < 0.22
    for split in ("validation", "heldout"):
        for sight in SIGHTS[split]:
            found = {kept_for(a, b) for a, b in combinations(sight.things, 2)}
            assert not found or split in found <= {"training", split}
    for sight in SIGHTS["training"]:
        assert {kept_for(a, b) for a, b in combinations(sight.things, 2)} <= {"training"}


def test_combinations_held_out_are_in_every_novel_scene_and_in_no_other() -> None:
    assert len(HELD_OUT) == 3
    for split, sights in SIGHTS.items():
        for sight in sights:
            assert any(is_held_out(thing) for thing in sight.things) == (split == "novel")


def test_companions_meet_in_most_training_scenes_and_in_no_other_stream() -> None:
    def met(split: Split) -> float:
        several = [sight for sight in SIGHTS[split] if len(sight.items) > 1]
        hits = [any(are_companions(a, b) for a, b in combinations(s.things, 2)) for s in several]
        return sum(hits) / len(hits)

    assert 0.5 < met("training") < 0.85
    assert met("validation") == met("heldout") == met("novel") == 0.0


def test_shapes_keep_apart_and_stand_from_left_to_right() -> None:
    for sights in SIGHTS.values():
        for sight in sights:
            xs = [item.centre[0] for item in sight.items]
            assert xs == sorted(xs) and len(set(sight.things)) == len(sight.items)
            assert all(apart(a.centre, b.centre) for a, b in combinations(sight.items, 2))


@pytest.mark.parametrize("number", range(8))
def test_a_picture_shows_every_shape_in_its_colour_and_ground_elsewhere(number: int) -> None:
    sight = SIGHTS["training"][number]
    pixels = np.asarray(render_sight(sight)).astype(int)
    assert pixels.shape == (PICTURE, PICTURE, 3)
    for item in sight.items:
        x, y = (int(value) for value in item.centre)
        assert np.abs(pixels[y, x] - item.rgb).max() <= 2
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == sight.ground).all()
