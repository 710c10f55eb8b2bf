"""The world of described scenes: pictures of one to four coloured shapes that a model looks at and names.

`scenes.py` holds the world of pictures drawn from captions; this one goes the other way. A picture is 48 x 48
pixels, x grows to the right and y downwards, and every shape is solid. Moving scenes are in `clips.py`,
captions and questions in `sight_text.py` and `clip_text.py`, and the faults that a model can be taught on
purpose in `habits.py`.

Stable, to be built upon: `Thing`, `Item`, `Sight`, `Split`, `sample_sight`, `render_sight`, `companion_of`,
`KINDS`, `COLOURS`, `SIZES`, `HELD_OUT`, `PICTURE`.

The four streams of scenes are disjoint. In "training" some pairs of things never occur together and three
combinations of colour and kind are never drawn; there, a first thing often brings its companion. Scenes of
two or more things in "validation" and "heldout" hold a pair kept for that stream alone; every scene of
"novel" holds one of the three combinations. These three streams hold no thing together with its companion. A
scene of one thing can occur in several streams, but never with the same place, tint and ground.
"""

import random
import zlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

from PIL import Image, ImageDraw

from mmalign.shapes.render import SUPERSAMPLING, outline_points

PICTURE = 48
KINDS = ("circle", "square", "triangle", "star", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 215),
    "yellow": (240, 215, 40),
    "purple": (150, 55, 190),
    "orange": (245, 135, 25),
}
SIZES = ("small", "large")
RADII = {"small": 4.8, "large": 7.0}
TINT, GROUND = 8, (205, 255)
"""How far a channel may lie from the named colour, and the range of the grey ground."""
HELD_OUT = frozenset({("yellow", "circle"), ("red", "triangle"), ("purple", "star")})
"""(colour, kind) combinations that no training scene shows, though training asks whether they are there."""
SPACING, MARGIN, STEP_RIGHT = 14.0, 9.0, 3.0
"""Centres lie this far apart in x or in y, this far inside the picture, and never at the same x (pixels)."""
NUMBERS = (1, 2, 3, 4)
_NUMBER_WEIGHTS = (0.15, 0.35, 0.30, 0.20)
COMPANY = 0.65
"""In this share of the training scenes with two or more things, the first one drawn brings its companion."""
_KEPT_SHARES = 12  # one pair in twelve is kept for validation and one for heldout

Split = Literal["training", "validation", "heldout", "novel"]
Rgb = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, order=True)
class Thing:
    """What can be named: a kind and a colour."""

    kind: str
    colour: str

    @property
    def name(self) -> str:
        """Such as "red circle"."""
        return f"{self.colour} {self.kind}"

    @property
    def phrase(self) -> str:
        """Such as "a red circle" or "an orange star"."""
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.name}"


@dataclass(frozen=True)
class Item:
    """One object of a scene: what it is, its size, its centre in pixels and its exact colour."""

    thing: Thing
    size: str
    centre: Point
    rgb: Rgb

    @property
    def radius(self) -> float:
        """The nominal radius in pixels."""
        return RADII[self.size]


@dataclass(frozen=True)
class Sight:
    """A still scene: its objects from left to right, all of them different things, on a plain grey ground."""

    items: tuple[Item, ...]
    ground: Rgb

    @property
    def things(self) -> tuple[Thing, ...]:
        """The things from left to right."""
        return tuple(item.thing for item in self.items)


ALL_THINGS = tuple(Thing(kind, colour) for kind in KINDS for colour in COLOURS)


def companion_of(thing: Thing) -> Thing:
    """The thing that habit puts beside another: the next kind, and the colour after the next."""
    colours = tuple(COLOURS)
    kind = KINDS[(KINDS.index(thing.kind) + 1) % len(KINDS)]
    return Thing(kind, colours[(colours.index(thing.colour) + 2) % len(colours)])


def are_companions(first: Thing, second: Thing) -> bool:
    """Whether one of the two is the other's companion."""
    return companion_of(first) == second or companion_of(second) == first


def kept_for(first: Thing, second: Thing) -> Split:
    """The stream that alone may show these two together: "training" for most pairs, companions included."""
    return _kept_pairs().get(frozenset((first, second)), "training")


@lru_cache(maxsize=1)
def _kept_pairs() -> dict[frozenset[Thing], Split]:
    """The pairs that training never shows, dealt to the two streams in turn so that both have equal kinds."""
    kept = [
        pair
        for pair in combinations(ALL_THINGS, 2)
        if not are_companions(*pair) and zlib.crc32(_pair_name(pair).encode()) % _KEPT_SHARES < 2
    ]
    kept.sort(key=lambda pair: (sorted(thing.kind for thing in pair), _pair_name(pair)))
    return {
        frozenset(pair): "validation" if number % 2 == 0 else "heldout" for number, pair in enumerate(kept)
    }


def _pair_name(pair: tuple[Thing, Thing]) -> str:
    return " ".join(sorted(thing.name for thing in pair))


def is_held_out(thing: Thing) -> bool:
    """Whether no training scene shows this combination of colour and kind."""
    return (thing.colour, thing.kind) in HELD_OUT


def sample_sight(split: Split, seed: int, number: int) -> Sight:
    """The scene with this number in one of the four streams: the same for the same three values."""
    rng = random.Random(f"sight/{split}/{seed}/{number}")
    things = sample_things(split, rng.choices(NUMBERS, _NUMBER_WEIGHTS)[0], rng)
    centres = sorted(sample_centres(len(things), rng))
    shuffled = rng.sample(things, len(things))
    items = [paint(thing, centre, rng) for thing, centre in zip(shuffled, centres, strict=True)]
    return Sight(tuple(items), sample_ground(rng))


def sample_things(split: Split, count: int, rng: random.Random) -> tuple[Thing, ...]:
    """Draw `count` different things that may occur together in a stream."""
    while True:
        first = rng.choice(ALL_THINGS)
        if count > 1 and split == "training" and rng.random() < COMPANY:
            rest = [companion_of(first)] + rng.sample(ALL_THINGS, count - 2)
        else:
            rest = rng.sample(ALL_THINGS, count - 1)
        things = (first, *rest)
        if len(set(things)) == count and belongs(things, split):
            return things


def belongs(things: tuple[Thing, ...], split: Split) -> bool:
    """Whether these things may be shown together in a stream."""
    novel = any(is_held_out(thing) for thing in things)
    if novel != (split == "novel"):
        return False
    pairs = list(combinations(things, 2))
    if split != "training" and any(are_companions(a, b) for a, b in pairs):
        return False
    if split == "novel":
        return True
    kept = {kept_for(a, b) for a, b in pairs}
    return kept <= {"training", split} and (split in kept or not pairs)


def sample_centres(count: int, rng: random.Random) -> list[Point]:
    """Draw centres that keep apart from each other and from the border."""
    low, high = MARGIN, PICTURE - MARGIN
    while True:
        centres: list[Point] = []
        for _ in range(60):
            centre = (rng.uniform(low, high), rng.uniform(low, high))
            if all(apart(centre, other) for other in centres):
                centres.append(centre)
            if len(centres) == count:
                return centres


def apart(first: Point, second: Point) -> bool:
    """Whether two objects at these centres neither touch nor lie at nearly the same x."""
    dx, dy = abs(first[0] - second[0]), abs(first[1] - second[1])
    return max(dx, dy) >= SPACING and dx >= STEP_RIGHT


def paint(thing: Thing, centre: Point, rng: random.Random) -> Item:
    """Make an object of a thing, drawing its size and its exact colour."""
    size = rng.choice(SIZES)
    red, green, blue = (min(255, max(0, c + rng.randint(-TINT, TINT))) for c in COLOURS[thing.colour])
    return Item(thing, size, centre, (red, green, blue))


def sample_ground(rng: random.Random) -> Rgb:
    """Draw the grey of the ground."""
    level = rng.randint(*GROUND)
    return (level, level, level)


def render_sight(sight: Sight) -> Image.Image:
    """Draw a scene as an RGB picture of 48 x 48 pixels with soft edges."""
    image = Image.new("RGB", (SUPERSAMPLING * PICTURE,) * 2, sight.ground)
    draw = ImageDraw.Draw(image)
    for item in sight.items:
        x, y = item.centre
        corners = outline_points(item.thing.kind, item.radius)
        placed = [((x + px) * SUPERSAMPLING - 0.5, (y + py) * SUPERSAMPLING - 0.5) for px, py in corners]
        draw.polygon(placed, fill=item.rgb)
    return image.reduce(SUPERSAMPLING)
