"""Moving scenes: four frames, in which each of one to three shapes stays, moves one way, or comes late.

A clip lasts one second: 4 frames at 4 frames per second. A moving shape goes 5.5 to 8 pixels per frame along
one axis. At most one shape comes late, at the third frame. Things and streams are those of `sights.py`.

Stable, to be built upon: `Actor`, `Clip`, `sample_clip`, `render_clip`, `USUAL_MOTION`, `MOTIONS`, `FRAMES`,
`FPS`.
"""

import random
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from mmalign.shapes.sights import (
    MARGIN,
    PICTURE,
    SPACING,
    STEP_RIGHT,
    Item,
    Point,
    Rgb,
    Sight,
    Split,
    Thing,
    paint,
    render_sight,
    sample_ground,
    sample_things,
)

FRAMES, FPS, LATE = 4, 4.0, 2
"""Frames of a clip, frames per second, and the frame (from 0) at which a late shape comes."""
MOTIONS = ("left", "right", "up", "down", "still")
_DIRECTIONS: dict[str, Point] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "still": (0.0, 0.0),
}
SPEED = (5.5, 8.0)
STILL, LATECOMER = 0.15, 0.5
"""The shares of shapes drawn to stay where they are, and of clips of several shapes with a late one."""
USUAL_MOTION = {"circle": "right", "square": "left", "triangle": "up", "star": "down", "cross": "right"}
"""Which way each kind moves by habit."""
_TRIES = 25  # places tried for a set of motions; some sets hardly fit into the picture
_NUMBERS, _NUMBER_WEIGHTS = (1, 2, 3), (0.25, 0.45, 0.30)


@dataclass(frozen=True)
class Actor:
    """One shape of a clip: the object at its first frame, its step in pixels per frame, its first frame."""

    item: Item
    motion: str
    step: Point
    onset: int

    def centre_at(self, frame: int) -> Point:
        """The centre in a frame, from the first frame of this shape on."""
        passed = frame - self.onset
        return (self.item.centre[0] + passed * self.step[0], self.item.centre[1] + passed * self.step[1])


@dataclass(frozen=True)
class Clip:
    """Shapes in motion on a plain ground, ordered by the x at which each is first seen."""

    actors: tuple[Actor, ...]
    ground: Rgb

    @property
    def things(self) -> tuple[Thing, ...]:
        """The things by the x at which each is first seen."""
        return tuple(actor.item.thing for actor in self.actors)

    def at(self, frame: int) -> Sight:
        """What is seen in frame 0..3, from left to right; a frame may be empty of late shapes."""
        seen = [
            Item(actor.item.thing, actor.item.size, actor.centre_at(frame), actor.item.rgb)
            for actor in self.actors
            if frame >= actor.onset
        ]
        return Sight(tuple(sorted(seen, key=lambda item: item.centre[0])), self.ground)


def sample_clip(split: Split, seed: int, number: int, usual: float = 0.0) -> Clip:
    """The clip with this number in one of the four streams.

    With probability `usual` a shape moves the way that its kind moves by habit; the other motions are even.
    """
    rng = random.Random(f"clip/{split}/{seed}/{number}")
    things = sample_things(split, rng.choices(_NUMBERS, _NUMBER_WEIGHTS)[0], rng)
    late = rng.randrange(len(things)) if len(things) > 1 and rng.random() < LATECOMER else None
    while True:
        motions = [_motion(thing, usual, rng) for thing in things]
        for _ in range(_TRIES):
            actors = [
                _actor(thing, motion, LATE if index == late else 0, rng)
                for index, (thing, motion) in enumerate(zip(things, motions, strict=True))
            ]
            if all(_apart(a, b) for a, b in combinations(actors, 2)):
                ordered = sorted(actors, key=lambda actor: actor.item.centre[0])
                return Clip(tuple(ordered), sample_ground(rng))


def render_clip(clip: Clip) -> Tensor:
    """Draw a clip: uint8 [4, 3, 48, 48]."""
    frames = [np.asarray(render_sight(clip.at(frame))) for frame in range(FRAMES)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def _motion(thing: Thing, usual: float, rng: random.Random) -> str:
    if rng.random() < usual:
        return USUAL_MOTION[thing.kind]
    return "still" if rng.random() < STILL else rng.choice(MOTIONS[:4])


def _actor(thing: Thing, motion: str, onset: int, rng: random.Random) -> Actor:
    """Place a shape so that it stays inside the picture in all its frames."""
    speed = rng.uniform(*SPEED)
    step = (_DIRECTIONS[motion][0] * speed, _DIRECTIONS[motion][1] * speed)
    way = (step[0] * (FRAMES - 1 - onset), step[1] * (FRAMES - 1 - onset))
    low, high = MARGIN, PICTURE - MARGIN
    x, y = (rng.uniform(low - min(0.0, move), high - max(0.0, move)) for move in way)
    return Actor(paint(thing, (x, y), rng), motion, step, onset)


def _apart(first: Actor, second: Actor) -> bool:
    """Whether two shapes never touch, and differ in the x at which each is first seen."""
    if abs(first.item.centre[0] - second.item.centre[0]) < STEP_RIGHT:
        return False
    for frame in range(max(first.onset, second.onset), FRAMES):
        (x, y), (x2, y2) = first.centre_at(frame), second.centre_at(frame)
        if max(abs(x - x2), abs(y - y2)) < SPACING:
            return False
    return True
