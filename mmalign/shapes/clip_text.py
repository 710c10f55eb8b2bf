"""What is said of a clip: its caption, questions about motion and order with exact answers, and reading back.

A caption tells how each thing moves: "a red circle moving left and an orange star standing still".

Stable, to be built upon: `clip_caption_of`, `parse_clip_caption`, `ask_clip`, `parse_motion_question`,
`CLIP_TOPICS`, `DESCRIBE_VIDEO`, `MOTION_ANSWERS`.
"""

import random
import re

from mmalign.shapes.clips import MOTIONS, Actor, Clip
from mmalign.shapes.sight_text import COUNTS, Question, Topic, draw_presence, join_phrases
from mmalign.shapes.sights import COLOURS, KINDS, Thing
from mmalign.types import UserError

CLIP_TOPICS: tuple[Topic, ...] = ("caption", "motion", "motion_check", "order", "count", "presence")
"""What can be asked of a clip."""
DESCRIBE_VIDEO = "Describe the video."
MOTION_ANSWERS = {motion: motion for motion in MOTIONS} | {"still": "it stays still"}
"""The answer to a motion question for each motion."""
_CAPTION_WORDS = {motion: f"moving {motion}" for motion in MOTIONS} | {"still": "standing still"}
_THING = rf"({'|'.join(COLOURS)}) ({'|'.join(KINDS)})"
_PART = re.compile(rf"an? {_THING} ({'|'.join(_CAPTION_WORDS.values())})")
_MOTION = re.compile(rf"Which way does the {_THING} move\?")

Doing = tuple[tuple[Thing, str], ...]
"""Things with their motions, in the order of a caption."""


def clip_caption_of(doing: Doing) -> str:
    """The caption that tells these things and motions in this order."""
    return join_phrases([f"{thing.phrase} {_CAPTION_WORDS[motion]}" for thing, motion in doing])


def parse_clip_caption(text: str) -> Doing:
    """Read a clip's caption back into things and motions; UserError for text outside the language."""
    parts = [part for half in text.split(" and ") for part in half.split(", ")]
    matches = [_PART.fullmatch(part) for part in parts]
    motions = {words: motion for motion, words in _CAPTION_WORDS.items()}
    doing = tuple((Thing(match[2], match[1]), motions[match[3]]) for match in matches if match is not None)
    if len(doing) == len(parts) and clip_caption_of(doing) == text:
        return doing
    raise UserError(
        f"caption {text!r} is not in the caption language of clips; write it like "
        "'a red circle moving left and an orange star standing still'"
    )


def doing_of(clip: Clip) -> Doing:
    """The things of a clip with their motions, in the order of its caption."""
    return tuple((actor.item.thing, actor.motion) for actor in clip.actors)


def parse_motion_question(text: str) -> Thing | None:
    """The thing whose motion a question asks for, or None for any other text."""
    match = _MOTION.fullmatch(text)
    return None if match is None else Thing(match[2], match[1])


def ask_clip(clip: Clip, topic: Topic, rng: random.Random) -> Question | None:
    """Draw a question of a topic about a clip; None where the clip allows none."""
    if topic == "caption":
        return Question(topic, DESCRIBE_VIDEO, clip_caption_of(doing_of(clip)), clip.things)
    if topic == "presence":
        return draw_presence(clip.things, rng)
    if topic == "count":
        return Question(topic, "How many objects are there?", COUNTS[len(clip.actors)])
    if topic == "order":
        return _ask_order(clip, rng)
    actor = rng.choice(clip.actors)
    if topic == "motion":
        return motion_question(actor)
    assert topic == "motion_check", topic
    asked = actor.motion if rng.random() < 0.5 else rng.choice([m for m in MOTIONS if m != actor.motion])
    words = "stay still" if asked == "still" else f"move {asked}"
    answer = "yes" if asked == actor.motion else "no"
    thing = actor.item.thing
    return Question(topic, f"Does the {thing.name} {words}?", answer, (thing,))


def motion_question(actor: Actor) -> Question:
    """Ask which way one shape moves."""
    thing = actor.item.thing
    text = f"Which way does the {thing.name} move?"
    return Question("motion", text, MOTION_ANSWERS[actor.motion], (thing,))


def _ask_order(clip: Clip, rng: random.Random) -> Question | None:
    """Ask which of two things comes first: one is there from the start and the other comes late."""
    late = [actor.item.thing for actor in clip.actors if actor.onset > 0]
    if not late:
        return None
    early = rng.choice([actor.item.thing for actor in clip.actors if actor.onset == 0])
    first, second = rng.sample([early, late[0]], 2)
    text = f"Which comes first, the {first.name} or the {second.name}?"
    return Question("order", text, f"the {early.name}", (first, second))
