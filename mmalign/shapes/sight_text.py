"""What is said of a still scene: its caption, questions with exact answers, and reading captions back.

A caption names the things from left to right: "a red circle, an orange star and a blue cross". Every answer
is a word or two and is decided by the scene alone; a question is asked only where it has one answer.

Stable, to be built upon: `Question`, `caption_of`, `join_phrases`, `parse_caption`, `named_things`,
`ask`, `ask_presence`, `parse_question`, `PROBES`, `TOPICS`, `DESCRIBE_PICTURE`.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mmalign.shapes.sights import ALL_THINGS, COLOURS, KINDS, Item, Sight, Thing, companion_of
from mmalign.types import UserError

Topic = Literal[
    "caption", "colour", "shape", "size", "count", "presence", "relation", "relation_check",
    "motion", "motion_check", "order",
]  # fmt: skip
Probe = Literal["true", "companion", "swap", "random"]
TOPICS: tuple[Topic, ...] = (
    "caption", "colour", "shape", "size", "count", "presence", "relation", "relation_check",
)  # fmt: skip
"""What can be asked of a still scene."""
PROBES: tuple[Probe, ...] = ("true", "companion", "swap", "random")
"""What a presence question asks about: a thing that is there, or one of three sorts of absent things."""
DESCRIBE_PICTURE = "Describe the picture."
COUNTS = ("zero", "one", "two", "three", "four")
RELATIONS = ("left", "right", "above", "below")
CLEAR = 4.0
"""A relation is asked only where the larger distance along an axis leads by this much (pixels)."""
_RELATION_PHRASES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}


@dataclass(frozen=True)
class Question:
    """A question, its exact answer, the things it names, and for presence questions which sort it is."""

    topic: Topic
    text: str
    answer: str
    things: tuple[Thing, ...] = ()
    probe: Probe | None = None


_THING = rf"({'|'.join(COLOURS)}) ({'|'.join(KINDS)})"
_PHRASE = re.compile(rf"an? {_THING}")
_NAMED = re.compile(rf"\b{_THING}\b")
_PRESENCE = re.compile(rf"Is there an? {_THING}\?")


def join_phrases(phrases: Sequence[str]) -> str:
    """Join phrases as "a, b and c"."""
    return " and ".join(part for part in (", ".join(phrases[:-1]), phrases[-1]) if part)


def caption_of(things: Iterable[Thing]) -> str:
    """The caption that names these things in this order."""
    return join_phrases([thing.phrase for thing in things])


def parse_caption(text: str) -> tuple[Thing, ...]:
    """Read a caption back into its things, in order; UserError for text outside the caption language."""
    parts = [part for half in text.split(" and ") for part in half.split(", ")]
    matches = [_PHRASE.fullmatch(part) for part in parts]
    things = tuple(Thing(match[2], match[1]) for match in matches if match is not None)
    if len(things) == len(parts) and caption_of(things) == text:
        return things
    raise UserError(
        f"caption {text!r} is not in the caption language; write it like 'a red circle and an orange star'"
    )


def mentioned_things(text: str) -> list[Thing]:
    """The things that a text names anywhere, in order and as often as it does, whatever else it says."""
    return [Thing(kind, colour) for colour, kind in _NAMED.findall(text)]


def named_things(text: str) -> frozenset[Thing]:
    """Every thing that a text names anywhere, whatever else it says."""
    return frozenset(mentioned_things(text))


def parse_question(text: str) -> Thing | None:
    """The thing that a presence question asks about, or None for any other text."""
    match = _PRESENCE.fullmatch(text)
    return None if match is None else Thing(match[2], match[1])


def ask(sight: Sight, topic: Topic, rng: random.Random) -> Question | None:
    """Draw a question of a topic about a still scene; None where the scene allows none."""
    if topic == "caption":
        return Question(topic, DESCRIBE_PICTURE, caption_of(sight.things), sight.things)
    if topic == "presence":
        return draw_presence(sight.things, rng)
    if topic == "count":
        return _ask_count(sight, rng)
    if topic in ("relation", "relation_check"):
        return _ask_relation(sight, topic == "relation_check", rng)
    item = rng.choice(sight.items)
    thing = item.thing
    if topic == "size":
        return Question(topic, f"What size is the {thing.name}?", item.size, (thing,))
    if topic == "colour":
        unique = sum(other.kind == thing.kind for other in sight.things) == 1
        return (
            Question(topic, f"What colour is the {thing.kind}?", thing.colour, (thing,)) if unique else None
        )
    assert topic == "shape", topic
    unique = sum(other.colour == thing.colour for other in sight.things) == 1
    return Question(topic, f"What shape is {thing.colour}?", thing.kind, (thing,)) if unique else None


def ask_presence(things: Sequence[Thing], probe: Probe, rng: random.Random) -> Question | None:
    """Ask whether a thing is there: one that is, or an absent companion, exchange or any other.

    The exchange shares its kind with one thing of the scene and its colour with another, or differs from a
    single thing in one of the two. None where the scene offers no such thing.
    """
    present = set(things)
    if probe == "true":
        asked = list(things)
    elif probe == "companion":
        asked = [companion_of(thing) for thing in things]
    elif probe == "swap":
        asked = [other for other in ALL_THINGS if _is_swap(other, things)]
    else:
        asked = list(ALL_THINGS)
    asked = [thing for thing in asked if (thing in present) == (probe == "true")]
    if not asked:
        return None
    thing = rng.choice(asked)
    answer = "yes" if thing in present else "no"
    return Question("presence", f"Is there {thing.phrase}?", answer, (thing,), probe)


def draw_presence(things: Sequence[Thing], rng: random.Random) -> Question:
    """Ask for presence: half the answers are yes; absent things are of the three sorts alike."""
    probe: Probe = "true" if rng.random() < 0.5 else rng.choice(PROBES[1:])
    question = ask_presence(things, probe, rng) or ask_presence(things, "random", rng)
    assert question is not None
    return question


def _is_swap(other: Thing, things: Sequence[Thing]) -> bool:
    if len(things) == 1:
        return (other.kind == things[0].kind) != (other.colour == things[0].colour)
    return other.kind in {t.kind for t in things} and other.colour in {t.colour for t in things}


def _ask_count(sight: Sight, rng: random.Random) -> Question:
    if rng.random() < 0.5:
        return Question("count", "How many objects are there?", COUNTS[len(sight.items)])
    kinds = [thing.kind for thing in sight.things]
    kind = rng.choice(kinds) if rng.random() < 0.75 else rng.choice(KINDS)
    return Question(
        "count", f"How many {kind}{'e' * kind.endswith('s')}s are there?", COUNTS[kinds.count(kind)]
    )


def relation_of(first: Item, second: Item) -> str | None:
    """Where the first lies from the second, or None where it is as much beside it as above or below it."""
    dx, dy = (a - b for a, b in zip(first.centre, second.centre, strict=True))
    if abs(abs(dx) - abs(dy)) < CLEAR:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def _ask_relation(sight: Sight, check: bool, rng: random.Random) -> Question | None:
    if len(sight.items) < 2:
        return None
    first, second = rng.sample(sight.items, 2)
    relation = relation_of(first, second)
    if relation is None:
        return None
    things = (first.thing, second.thing)
    if not check:
        text = f"Where is the {first.thing.name} from the {second.thing.name}?"
        return Question("relation", text, relation, things)
    asked = relation if rng.random() < 0.5 else rng.choice([r for r in RELATIONS if r != relation])
    text = f"Is the {first.thing.name} {_RELATION_PHRASES[asked]} the {second.thing.name}?"
    return Question("relation_check", text, "yes" if asked == relation else "no", things)
