"""Clips and questions for shapes_video.py: what comes first, which way things move, and disturbed frames.

In a relay of two things one is shown in the first two frames and the other in the last two. Every frame shows
one thing, so that nothing but the order of the frames tells which came first: in frames of random order the
answer is as often the one as the other, and reversed frames turn it round. A late thing, the question on
order that the built-in model was trained with, is told by how many frames show it, too.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

import numpy as np
import torch

from mmalign.clips import Clip
from mmalign.shapes import clips as world
from mmalign.shapes.clip_text import MOTION_ANSWERS, ask_clip, motion_question
from mmalign.shapes.clips import FPS, FRAMES, USUAL_MOTION, render_clip, sample_clip
from mmalign.shapes.sights import Item, Sight, Split, render_sight
from mmalign.types import Message, Part

Topic = Literal["relay", "late", "motion", "count", "caption"]
Frames = Literal["ordered", "shuffled", "reversed", "frozen"]
TURN = FRAMES // 2
"""The frame at which one thing of a relay takes the other's place."""
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
ORDERS = [order for order in permutations(range(FRAMES)) if list(order) not in ([0, 1, 2, 3], [3, 2, 1, 0])]
"""Orders that are neither the frames' own nor its reversal; with each one, its own reversal is here too."""


@dataclass(frozen=True)
class Asked:
    """A question about a clip: the right answer, what would be right if time ran backwards (None where that
    is the same, or not told), the two things named in a question on order, and the answer by habit."""

    topic: Topic
    number: int
    clip: Clip
    question: str
    answer: str
    opposite: str | None = None
    named: tuple[str, ...] = ()
    habit: str | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What a model is given."""
        return prompt_of(self.clip, self.question)


def prompt_of(clip: Clip, question: str) -> tuple[Message, ...]:
    """A clip and a question about it."""
    return (Message("user", (Part("video", clip), Part("text", question))),)


def ask(split: Split, seed: int, topic: Topic, number: int) -> Asked | None:
    """The question of a topic about the clip with this number; None where that clip allows none."""
    scene = sample_clip(split, seed, number)
    rng = random.Random(f"video bench/{topic}/{split}/{seed}/{number}")
    if topic == "relay":
        return _ask_relay(scene, number, rng)
    clip = _clip(render_clip(scene))
    if topic == "motion":
        actor = rng.choice(scene.actors)
        question = motion_question(actor)
        usual = MOTION_ANSWERS[USUAL_MOTION[actor.item.thing.kind]]
        opposite = MOTION_ANSWERS[OPPOSITE[actor.motion]] if actor.motion in OPPOSITE else None
        return Asked(topic, number, clip, question.text, question.answer, opposite, habit=usual)
    drawn = ask_clip(scene, "order" if topic == "late" else topic, rng)
    if drawn is None:
        return None
    if topic != "late":
        return Asked(topic, number, clip, drawn.text, drawn.answer)
    named = tuple(f"the {thing.name}" for thing in drawn.things)
    opposite = next(name for name in named if name != drawn.answer)
    return Asked(topic, number, clip, drawn.text, drawn.answer, opposite, named, habit=named[0])


def _ask_relay(scene: world.Clip, number: int, rng: random.Random) -> Asked | None:
    if len(scene.actors) != 2:
        return None
    first, second = sorted(rng.sample(scene.actors, 2), key=lambda actor: actor.onset)
    frames = []
    for frame in range(FRAMES):
        shown = first if frame < TURN else second
        thing, size, rgb = shown.item.thing, shown.item.size, shown.item.rgb
        sight = Sight((Item(thing, size, shown.centre_at(frame), rgb),), scene.ground)
        frames.append(np.asarray(render_sight(sight)))
    clip = _clip(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous())
    answer, opposite = (f"the {actor.item.thing.name}" for actor in (first, second))
    named = tuple(rng.sample([answer, opposite], 2))
    question = f"Which comes first, {named[0]} or {named[1]}?"
    return Asked("relay", number, clip, question, answer, opposite, named, habit=named[0])


def _clip(frames: torch.Tensor) -> Clip:
    return Clip(frames, tuple(range(FRAMES)), tuple(i / FPS for i in range(FRAMES)), FPS, FRAMES, "memory")


def first_questions(split: Split, seed: int, topic: Topic, count: int) -> list[Asked]:
    """The first questions of a topic that the scenes of a stream allow, none of them chosen."""
    found: list[Asked] = []
    number = 0
    while len(found) < count:
        one = ask(split, seed, topic, number)
        number += 1
        found += [] if one is None else [one]
    return found


def with_frames(clip: Clip, frames: Frames, rng: random.Random) -> Clip:
    """The clip with its frames in one of ORDERS, reversed, or the last one four times."""
    orders: dict[Frames, Sequence[int]] = {
        "ordered": range(FRAMES),
        "shuffled": rng.choice(ORDERS),
        "reversed": range(FRAMES)[::-1],
        "frozen": [FRAMES - 1] * FRAMES,
    }
    return with_order(clip, orders[frames])


def with_order(clip: Clip, order: Sequence[int]) -> Clip:
    """The clip that shows these of its frames; its time stamps stay."""
    return replace(clip, frames=clip.frames[torch.tensor(list(order))])
