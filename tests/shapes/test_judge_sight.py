"""Reading described scenes back from pixels: everything that was drawn, and nothing else."""

from typing import get_args

import pytest
import torch
from PIL import Image

from mmalign.clips import Clip
from mmalign.shapes.clips import sample_clip
from mmalign.shapes.judge_sight import read_clip, read_picture
from mmalign.shapes.sight_pairs import clip_of
from mmalign.shapes.sights import (
    COLOURS,
    PICTURE,
    Item,
    Sight,
    Split,
    Thing,
    render_sight,
    sample_sight,
)
from mmalign.types import UserError

SPLITS: tuple[Split, ...] = get_args(Split)


@pytest.mark.parametrize("split", SPLITS)
def test_every_object_of_a_picture_is_read(split: Split) -> None:
    for number in range(150):
        sight = sample_sight(split, 3, number)
        seen = read_picture(render_sight(sight))
        assert [(one.thing, one.size) for one in seen] == [(item.thing, item.size) for item in sight.items]
        for one, item in zip(seen, sight.items, strict=True):
            assert max(abs(a - b) for a, b in zip(one.centre, item.centre, strict=True)) < 1


@pytest.mark.parametrize("split", SPLITS)
def test_objects_motions_and_order_of_a_clip_are_read(split: Split) -> None:
    for number in range(40):
        clip = sample_clip(split, 3, number)
        seen = {(one.thing, one.onset, one.motion) for one in read_clip(clip_of(split, 3, number))}
        assert seen == {(actor.item.thing, actor.onset, actor.motion) for actor in clip.actors}


def test_an_empty_picture_shows_nothing() -> None:
    assert read_picture(Image.new("RGB", (PICTURE, PICTURE), (220, 220, 220))) == ()


def test_touching_objects_of_one_colour_are_two() -> None:
    red = COLOURS["red"]
    items = (
        Item(Thing("square", "red"), "large", (16.0, 20.0), red),
        Item(Thing("circle", "red"), "large", (29.0, 20.0), red),
    )
    seen = read_picture(render_sight(Sight(items, (230, 230, 230))))
    assert [one.thing.kind for one in seen] == ["square", "circle"]


def test_reversed_frames_reverse_the_motion() -> None:
    clip = clip_of("training", 3, 0)
    back = Clip(clip.frames.flip(0), clip.indices, clip.seconds, clip.rate, clip.total, clip.reader)
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up", "still": "still"}
    motions = {one.thing: one.motion for one in read_clip(clip)}
    assert {one.thing: opposite[one.motion] for one in read_clip(back)} == motions


def test_pictures_of_other_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="64 x 64 pixels is not of this world"):
        read_picture(Image.new("RGB", (64, 64)))
    frames = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(UserError, match="32 x 32"):
        read_clip(Clip(frames, (0, 1), (0.0, 0.5), 2.0, 2, "memory"))
