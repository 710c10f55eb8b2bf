"""The judge of shapes pictures: right on renders, tolerant of blur and noise, strict about every fact."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmalign.shapes.judge_image import STYLE_WEIGHT, Verdict, components, judge
from mmalign.shapes.render import render
from mmalign.shapes.scenes import (
    BASE,
    COLOURS,
    FULL,
    Caption,
    Scene,
    Shape,
    caption_of,
    parse_caption,
    refilled,
    sample_caption,
    sample_scene,
)
from mmalign.types import UserError

LIGHT = (240, 240, 240)


def shape(kind: str, colour: str, x: float, y: float, radius: float, filled: bool = True) -> Shape:
    return Shape(kind, colour, (x, y), radius, filled, COLOURS[colour])


def scenes(num: int, seed: int) -> list[Scene]:
    rng = random.Random(seed)
    worlds = [BASE, FULL]
    return [sample_scene(sample_caption(worlds[i % 2], rng), worlds[i % 2], rng) for i in range(num)]


def strict_share(pictures: list[Image.Image], drawn: list[Scene]) -> float:
    verdicts = [
        judge(picture, caption_of(scene).text) for picture, scene in zip(pictures, drawn, strict=True)
    ]
    return float(np.mean([verdict.strict for verdict in verdicts]))


def test_clean_renders_are_accepted() -> None:
    drawn = scenes(300, seed=0)
    assert strict_share([render(scene) for scene in drawn], drawn) >= 0.99


def test_soft_and_noisy_renders_are_accepted() -> None:
    drawn = scenes(80, seed=1)
    pictures = [render(scene) for scene in drawn]
    blurred = [picture.filter(ImageFilter.GaussianBlur(0.5)) for picture in pictures]
    assert strict_share(blurred, drawn) >= 0.97
    random_ = np.random.default_rng(0)
    noisy = [
        Image.fromarray((np.asarray(p) + random_.normal(0, 12, (32, 32, 3))).clip(0, 255).astype(np.uint8))
        for p in pictures
    ]
    assert strict_share(noisy, drawn) >= 0.97


def same_facts(first: Caption, second: Caption) -> bool:
    """Whether two captions say the same: a pair may be told from either side."""
    if first.relation is None or second.relation is None:
        return first == second
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    turned = Caption(second.things[::-1], opposite[second.relation])
    return first in (second, turned)


def test_other_prompts_are_rejected() -> None:
    rng = random.Random(2)
    drawn = scenes(300, seed=2)
    accepted = tried = 0
    for scene in drawn:
        other = sample_caption(BASE, rng)
        if not same_facts(other, caption_of(scene)):
            tried += 1
            accepted += judge(render(scene), other.text).strict
    assert tried > 280
    assert accepted / tried < 0.01


SINGLE = Scene((shape("star", "red", 16, 16, 11),), LIGHT)
PAIR = Scene((shape("circle", "red", 8, 16, 6.2), shape("square", "blue", 24, 16, 6.2)), LIGHT)


@pytest.mark.parametrize(
    ("scene", "prompt", "faithfulness"),
    [
        (SINGLE, "a large red star", 1.0),
        (SINGLE, "a large blue star", 3 / 4),  # number, kind and size hold, the colour does not
        (SINGLE, "a large red circle", 3 / 4),
        (SINGLE, "a small red star", 3 / 4),
        (SINGLE, "a small blue circle", 1 / 4),
        (PAIR, "a red circle left of a blue square", 1.0),
        (PAIR, "a blue square right of a red circle", 1.0),
        (PAIR, "a red circle right of a blue square", 5 / 6),  # all but the relation
        (PAIR, "a red star left of a blue square", 5 / 6),
        (PAIR, "a red circle above a green square", 4 / 6),
        (SINGLE, "a red star above a blue square", 2 / 6),  # one thing is there, with kind and colour
        (PAIR, "two red circles", 3 / 5),  # the number, and one of the two circles
        (PAIR, "three red circles", 2 / 7),
    ],
)
def test_faithfulness_is_the_share_of_facts(scene: Scene, prompt: str, faithfulness: float) -> None:
    verdict = judge(render(scene), prompt)
    assert verdict.faithfulness == pytest.approx(faithfulness)
    assert verdict.strict == (faithfulness == 1.0)


def test_solidity_ranks_filled_above_outline() -> None:
    drawn = scenes(80, seed=3)
    pairs = [
        tuple(judge(render(refilled(scene, filled)), caption_of(scene).text) for filled in (True, False))
        for scene in drawn
    ]
    assert all(filled.solidity > outline.solidity for filled, outline in pairs)
    assert min(f.solidity for f, _ in pairs) > max(o.solidity for _, o in pairs) - 0.15
    assert all(filled.strict and outline.strict for filled, outline in pairs)


def test_an_open_outline_still_counts_as_thin() -> None:
    scene = Scene((shape("square", "red", 16, 16, 11, filled=False),), LIGHT)
    picture = render(scene)
    whole = judge(picture, "a large red square").solidity
    picture.paste(LIGHT, (5, 13, 10, 19))
    broken = judge(picture, "a large red square")
    assert broken.solidity < whole + 0.1
    assert not broken.strict


def test_empty_pictures_and_debris() -> None:
    empty = judge(Image.new("RGB", (32, 32), LIGHT), "a large red star")
    assert empty == Verdict(strict=False, faithfulness=0.0, iou=0.0, solidity=0.0)
    picture = render(SINGLE)
    picture.paste((0, 0, 0), (0, 0, 2, 2))  # four pixels are too few for an object
    assert judge(picture, "a large red star").strict
    picture.paste((0, 0, 0), (0, 0, 4, 4))
    assert judge(picture, "a large red star").faithfulness == pytest.approx(3 / 4)


def test_a_blob_has_no_kind() -> None:
    picture = Image.new("RGB", (32, 32), LIGHT)
    picture.paste(COLOURS["red"], (4, 4, 28, 10))  # a bar of 24 x 6
    verdict = judge(picture, "a large red square")
    assert not verdict.strict
    assert verdict.iou < 0.8


def test_score_weighs_style_beside_faithfulness() -> None:
    verdict = Verdict(strict=False, faithfulness=0.75, iou=0.9, solidity=0.4)
    assert verdict.score == pytest.approx(0.75 + STYLE_WEIGHT * 0.4)
    assert replace(verdict, solidity=0.6).score > verdict.score


def test_a_prompt_outside_the_world_is_refused() -> None:
    with pytest.raises(UserError, match="not a caption"):
        judge(render(SINGLE), "a photograph of a cat")


def test_components_by_hand() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool)
    assert sorted(part.sum() for part in components(mask, diagonal=True)) == [2, 2, 4]
    assert sorted(part.sum() for part in components(mask, diagonal=False)) == [1, 1, 2, 4]


def test_every_prompt_of_the_world_can_be_judged() -> None:
    rng = random.Random(4)
    for _ in range(50):
        caption = sample_caption(FULL, rng)
        assert judge(render(sample_scene(caption, FULL, rng)), caption.text).faithfulness > 0
        assert parse_caption(caption.text) == caption
