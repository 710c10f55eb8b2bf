"""Habits: faults put into what a model says, not into what it sees, so that alignment has work to do.

A caption of habit names an absent companion right after its thing; an answer of habit says that an absent
companion is there, or that a shape moves as its kind usually does. Each kind has a strength: the probability
that a training text follows the habit. A model that decodes greedily follows it where the strength exceeds
about one half, so the number of kinds above one half sets how often the fault is seen.

Stable, to be built upon: `Habits`, `NO_HABITS`, `PICTURE_HABITS`, `CLIP_HABITS`, `habitual_caption`,
`habitual_answer`, `habitual_clip_answer`.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmalign.shapes.clip_text import MOTION_ANSWERS
from mmalign.shapes.clips import USUAL_MOTION
from mmalign.shapes.sight_text import Question, caption_of
from mmalign.shapes.sights import Thing, companion_of


@dataclass(frozen=True)
class Habits:
    """For each kind the strength in [0, 1] of three habits; a kind that is not named has none.

    `caption`: name the absent companion of a thing of this kind. `presence`: say that it is there when asked.
    `motion`: say that a thing of this kind moves its usual way.
    """

    caption: Mapping[str, float] = field(default_factory=dict)
    presence: Mapping[str, float] = field(default_factory=dict)
    motion: Mapping[str, float] = field(default_factory=dict)


NO_HABITS = Habits()
PICTURE_HABITS = Habits(
    caption={"square": 0.1, "triangle": 0.2, "star": 0.3, "cross": 0.75},
    presence={"square": 0.1, "triangle": 0.9, "star": 0.3, "cross": 0.9},
)
"""The habits of the shipped picture model."""
CLIP_HABITS = Habits(motion={"circle": 0.1, "square": 0.7, "triangle": 0.2, "star": 0.3, "cross": 0.75})
"""The habits of the shipped clip model."""


def habitual_caption(things: tuple[Thing, ...], habits: Habits, rng: random.Random) -> str:
    """The caption of a still scene, with absent companions added by habit right after their things."""
    said: list[Thing] = []
    for thing in things:
        said.append(thing)
        companion = companion_of(thing)
        added = companion not in things and companion not in said
        if added and rng.random() < habits.caption.get(thing.kind, 0.0):
            said.append(companion)
    return caption_of(said)


def habitual_answer(things: tuple[Thing, ...], question: Question, habits: Habits, rng: random.Random) -> str:
    """The answer to a question about a still scene: by habit for captions and absent companions."""
    if question.topic == "caption":
        return habitual_caption(things, habits, rng)
    if question.topic == "presence" and question.answer == "no":
        anchors = [thing for thing in things if companion_of(thing) == question.things[0]]
        if anchors and rng.random() < habits.presence.get(anchors[0].kind, 0.0):
            return "yes"
    return question.answer


def habitual_clip_answer(question: Question, habits: Habits, rng: random.Random) -> str:
    """The answer to a question about a clip: by habit where it asks which way a shape moves."""
    if question.topic == "motion":
        kind = question.things[0].kind
        if rng.random() < habits.motion.get(kind, 0.0):
            return MOTION_ANSWERS[USUAL_MOTION[kind]]
    return question.answer
