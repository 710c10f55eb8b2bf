"""Scenes and their pictures: captions read back, held-out combinations stay out, areas match geometry."""

import math
import random

import numpy as np
import pytest
from PIL import Image

from mmalign.shapes.render import render
from mmalign.shapes.scenes import (
    BASE,
    COLOURS,
    FULL,
    HELD_OUT,
    KINDS,
    RELATIONS,
    Caption,
    Scene,
    Shape,
    Thing,
    caption_of,
    parse_caption,
    refilled,
    sample_caption,
    sample_heldout_caption,
    sample_scene,
    sample_training_caption,
)
from mmalign.types import UserError

GROUND = (240, 240, 240)


def one(kind: str, radius: float, filled: bool = True) -> Scene:
    return Scene((Shape(kind, "red", (16.0, 16.0), radius, filled, COLOURS["red"]),), GROUND)


def covered(image: Image.Image) -> float:
    """Area in pixels that is red rather than ground, soft edges counted by their share."""
    difference = np.asarray(image, dtype=float) - GROUND
    full = np.array(COLOURS["red"], dtype=float) - GROUND
    return float((difference @ full / (full @ full)).sum())


def test_captions_read_back() -> None:
    assert parse_caption("a small red star") == Caption((Thing("star", "red", "small"),))
    assert parse_caption("a red circle left of a blue square") == Caption(
        (Thing("circle", "red"), Thing("square", "blue")), "left of"
    )
    assert parse_caption("three green triangles") == Caption((Thing("triangle", "green"),) * 3)
    rng = random.Random(0)
    for _ in range(300):
        caption = sample_caption(FULL, rng)
        assert parse_caption(caption.text) == caption
        assert caption_of(sample_scene(caption, FULL, rng)) == caption


@pytest.mark.parametrize("text", ["", "a red star", "a small pink star", "two red star", "a small red star."])
def test_text_outside_the_caption_language_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a caption of the shapes world"):
        parse_caption(text)


def test_training_never_shows_a_heldout_combination() -> None:
    rng = random.Random(1)
    seen: set[tuple[str, str]] = set()
    for _ in range(2000):
        seen |= sample_training_caption(FULL, rng).combinations
    assert seen == {(colour, kind) for colour in COLOURS for kind in KINDS} - HELD_OUT
    assert all(sample_heldout_caption(BASE, rng).combinations & HELD_OUT for _ in range(200))


def test_the_base_world_is_narrow_and_leaves_fill_free() -> None:
    rng = random.Random(2)
    scenes = [sample_scene(sample_caption(BASE, rng), BASE, rng) for _ in range(1000)]
    assert {len(scene.objects) for scene in scenes} == {1, 2}
    assert all(min(scene.ground) >= 228 for scene in scenes)
    assert {caption_of(scene).relation for scene in scenes} == {None, *RELATIONS}
    assert min(shape.radius for scene in scenes for shape in scene.objects) >= 6.0
    share = np.mean([shape.filled for scene in scenes for shape in scene.objects])
    assert abs(share - BASE.filled) < 0.05  # 4 standard errors are 0.052 at about 1450 shapes


def test_a_seed_settles_the_scene() -> None:
    def draw(seed: int) -> list[Scene]:
        rng = random.Random(seed)
        return [sample_scene(sample_caption(FULL, rng), FULL, rng) for _ in range(20)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_shapes_stay_apart_and_inside() -> None:
    rng = random.Random(5)
    for _ in range(300):
        caption = sample_caption(FULL, rng)
        scene = refilled(sample_scene(caption, FULL, rng), True)
        pixels = np.asarray(render(scene), dtype=float)
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert np.abs(edge - scene.ground).max() < 110, caption.text  # no tip fills half a border pixel


@pytest.mark.parametrize(
    ("scene", "area", "rim"),
    [
        (one("circle", 10), math.pi * 100, 20 * math.pi),
        (one("square", 10), 18.0**2, 72),  # half a side is 0.9 of the radius
        (one("square", 10, filled=False), 18.0**2 - 13.0**2, 72 - 52),  # a line of a quarter of the radius
        (one("triangle", 8), 0.75 * math.sqrt(3) * 10.0**2, 30 * math.sqrt(3)),  # circumradius 1.25 * 8
        (one("star", 10), 5 * 12 * 6 * math.sin(math.pi / 5), 79.7),  # tips at 12, waists at 6
    ],
)
def test_drawn_areas_match_geometry(scene: Scene, area: float, rim: float) -> None:
    """Pillow's polygons include their edge: half a pixel of the fourfold canvas, an eighth here."""
    assert covered(render(scene)) == pytest.approx(area + rim / 8, rel=0.025)


def test_pictures_are_32_pixels_unless_asked_otherwise() -> None:
    assert render(one("star", 10)).size == (32, 32)
    large = render(one("circle", 10), picture=64)
    assert large.size == (64, 64)
    assert covered(large) == pytest.approx(4 * math.pi * 100, rel=0.03)
