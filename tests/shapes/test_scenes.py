"""Scenes and their pictures: captions read back, held-out combinations stay out, areas match geometry."""

import math
import random

import numpy as np
import pytest
from PIL import Image

from mmalign.shapes.judge_image import look
from mmalign.shapes.render import outline_points, render
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
    World,
    caption_of,
    parse_caption,
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


def test_the_base_world_is_light_and_leaves_fill_free() -> None:
    rng = random.Random(2)
    scenes = [sample_scene(sample_caption(BASE, rng), BASE, rng) for _ in range(1000)]
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    assert all(min(scene.ground) >= 228 for scene in scenes)
    assert {caption_of(scene).relation for scene in scenes} == {None, *RELATIONS}
    assert min(shape.radius for scene in scenes for shape in scene.objects) >= 5.8
    share = np.mean([shape.filled for scene in scenes for shape in scene.objects])
    assert abs(share - BASE.filled) < 0.05  # 4 standard errors are 0.05 at about 1600 shapes


def test_a_seed_settles_the_scene() -> None:
    def draw(seed: int) -> list[Scene]:
        rng = random.Random(seed)
        return [sample_scene(sample_caption(FULL, rng), FULL, rng) for _ in range(20)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize("world", [BASE, FULL])
def test_shapes_stay_apart_and_inside(world: World) -> None:
    rng = random.Random(5)
    for _ in range(150):
        scene = sample_scene(sample_caption(world, rng), world, rng)
        for shape in scene.objects:
            corners = np.array(outline_points(shape.kind, shape.radius)) + shape.centre
            assert corners.min() >= 0 and corners.max() <= 32, shape
        found, _ = look(np.asarray(render(scene), dtype=float))
        assert len(found) == len(scene.objects), caption_of(scene).text


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
