"""The world of coloured shapes: what a scene is, how one is drawn from a seed, and how it is captioned.

A caption states some facts of a scene (kind, colour, size, relation, number). Fill and the exact grey of the
ground are left out of it: these are the free attributes that a style preference may move. Lengths are pixels
of a 32 x 32 picture; x grows to the right and y downwards.
"""

import random
import re
from dataclasses import dataclass, replace

from mmalign.types import UserError

PICTURE = 32
MIDDLE = PICTURE / 2
LARGE_SPREAD, SMALL_SPREAD = 1.5, 4.0
"""How far the centre of a single large or small shape may lie from the middle, along each axis."""
KINDS = ("circle", "square", "triangle", "star")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 215),
    "yellow": (235, 195, 30),
    "purple": (150, 55, 190),
    "cyan": (40, 190, 215),
}
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NUMBERS = {2: "two", 3: "three"}
SIZE_BOUND = 8.75
"""A radius above this is large, one below it small (pixels)."""
HELD_OUT = frozenset({("red", "star"), ("blue", "triangle"), ("green", "circle"), ("purple", "square")})
"""(colour, kind) combinations that no training picture and no training pair contains."""

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """One object: its captioned facts, and the free ones (centre and radius in pixels, fill, exact tint)."""

    kind: str
    colour: str
    centre: tuple[float, float]
    radius: float
    filled: bool
    rgb: Rgb

    @property
    def size(self) -> str:
        """`small` or `large`, read off the radius."""
        return "large" if self.radius > SIZE_BOUND else "small"


@dataclass(frozen=True)
class Scene:
    """One or more shapes on a plain grey ground; the order of the shapes is the order of mention."""

    objects: tuple[Shape, ...]
    ground: Rgb


@dataclass(frozen=True)
class Thing:
    """What a caption says of one object; `size` is None where the caption leaves it open."""

    kind: str
    colour: str
    size: str | None = None


@dataclass(frozen=True)
class Caption:
    """The facts a caption states: things in order of mention, and the relation of the first to the second."""

    things: tuple[Thing, ...]
    relation: str | None = None

    @property
    def text(self) -> str:
        """The caption in words."""
        first = self.things[0]
        if self.relation is not None:
            second = self.things[1]
            return f"a {first.colour} {first.kind} {self.relation} a {second.colour} {second.kind}"
        if len(self.things) > 1:
            return f"{NUMBERS[len(self.things)]} {first.colour} {first.kind}s"
        return f"a {first.size} {first.colour} {first.kind}"

    @property
    def combinations(self) -> frozenset[tuple[str, str]]:
        """The (colour, kind) pairs that occur."""
        return frozenset((thing.colour, thing.kind) for thing in self.things)

    @property
    def held_out(self) -> bool:
        """Whether a combination occurs that training never shows."""
        return bool(self.combinations & HELD_OUT)


@dataclass(frozen=True)
class World:
    """Which scenes occur, and how often: the shares of the layouts and of the free attributes.

    `singles + pairs` is at most 1, the rest are groups of two or three equal shapes. `filled` and `dark` are
    the shares of filled objects and of dark grounds. Radii are in pixels and vary by `wobble` (a share).
    """

    name: str
    singles: float
    pairs: float
    filled: float
    dark: float
    small_radius: float = 6.5
    large_radius: float = 11.0
    pair_radius: float = 6.2
    group_radius: float = 6.0
    wobble: float = 0.03


BASE = World(name="base", singles=0.4, pairs=0.45, filled=0.45, dark=0.0)
"""The world of the shipped picture model: singles, pairs and some groups on a light ground."""
FULL = World(name="full", singles=0.35, pairs=0.35, filled=0.45, dark=0.3)
"""Everything that the renderer and the judge know: dark grounds as well, and more groups."""

_THING = rf"({'|'.join(COLOURS)}) ({'|'.join(KINDS)})"
_SINGLE = re.compile(rf"a ({'|'.join(SIZES)}) {_THING}")
_PAIR = re.compile(rf"a {_THING} ({'|'.join(RELATIONS)}) a {_THING}")
_GROUP = re.compile(rf"({'|'.join(NUMBERS.values())}) {_THING}s")


def parse_caption(text: str) -> Caption:
    """Read a caption back into its facts; raises UserError for text outside the caption language."""
    if match := _SINGLE.fullmatch(text):
        size, colour, kind = match.groups()
        return Caption((Thing(kind, colour, size),))
    if match := _PAIR.fullmatch(text):
        colour, kind, relation, colour2, kind2 = match.groups()
        return Caption((Thing(kind, colour), Thing(kind2, colour2)), relation)
    if match := _GROUP.fullmatch(text):
        number, colour, kind = match.groups()
        count = next(n for n, word in NUMBERS.items() if word == number)
        return Caption((Thing(kind, colour),) * count)
    raise UserError(
        f"prompt {text!r} is not a caption of the shapes world: write it like 'a small red star', "
        "'a red circle left of a blue square' or 'two green triangles'"
    )


def relation_of(first: tuple[float, float], second: tuple[float, float]) -> str:
    """How the first centre lies to the second: the axis with the larger distance decides."""
    dx, dy = first[0] - second[0], first[1] - second[1]
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def caption_of(scene: Scene) -> Caption:
    """The caption of a scene; groups are several objects of one kind and colour, pairs are any other two."""
    objects = scene.objects
    if len(objects) == 1:
        return Caption((Thing(objects[0].kind, objects[0].colour, objects[0].size),))
    things = tuple(Thing(shape.kind, shape.colour) for shape in objects)
    if len(set(things)) == 1:
        return Caption(things)
    return Caption(things, relation_of(objects[0].centre, objects[1].centre))


def sample_caption(world: World, rng: random.Random) -> Caption:
    """Draw a caption, held-out combinations included; the two colours of a pair differ."""
    layout = rng.random()
    kind, colour = rng.choice(KINDS), rng.choice(tuple(COLOURS))
    if layout < world.singles:
        return Caption((Thing(kind, colour, rng.choice(SIZES)),))
    if layout < world.singles + world.pairs:
        other = rng.choice([c for c in COLOURS if c != colour])
        return Caption((Thing(kind, colour), Thing(rng.choice(KINDS), other)), rng.choice(RELATIONS))
    return Caption((Thing(kind, colour),) * rng.choice(tuple(NUMBERS)))


def sample_training_caption(world: World, rng: random.Random) -> Caption:
    """Draw a caption without held-out combinations."""
    while (caption := sample_caption(world, rng)).held_out:
        pass
    return caption


def sample_heldout_caption(world: World, rng: random.Random) -> Caption:
    """Draw a caption with at least one held-out combination."""
    while not (caption := sample_caption(world, rng)).held_out:
        pass
    return caption


def sample_scene(caption: Caption, world: World, rng: random.Random) -> Scene:
    """Draw a scene that the caption describes: places, tints, fill and ground are free."""
    level = rng.randint(20, 45) if rng.random() < world.dark else rng.randint(228, 250)
    centres, radii = _places(caption, world, rng)
    objects = []
    for thing, centre, radius in zip(caption.things, centres, radii, strict=True):
        red, green, blue = (min(255, max(0, c + rng.randint(-8, 8))) for c in COLOURS[thing.colour])
        scaled = radius * rng.uniform(1 - world.wobble, 1 + world.wobble)
        filled = rng.random() < world.filled
        objects.append(Shape(thing.kind, thing.colour, centre, scaled, filled, (red, green, blue)))
    scene = Scene(tuple(objects), (level, level, level))
    assert caption_of(scene) == caption
    return scene


def _places(
    caption: Caption, world: World, rng: random.Random
) -> tuple[list[tuple[float, float]], list[float]]:
    """Centres and nominal radii for the layout of the caption; no shape touches another or the border."""

    def near(x: float, y: float, dx: float, dy: float) -> tuple[float, float]:
        return x + rng.uniform(-dx, dx), y + rng.uniform(-dy, dy)

    if len(caption.things) == 1:
        large = caption.things[0].size == "large"
        spread = LARGE_SPREAD if large else SMALL_SPREAD
        radius = world.large_radius if large else world.small_radius
        return [near(MIDDLE, MIDDLE + 0.5, spread, spread)], [radius]
    if caption.relation is not None:
        first, second = (8.0, 24.0) if caption.relation in ("left of", "above") else (24.0, 8.0)
        if caption.relation in ("left of", "right of"):
            return [near(c, MIDDLE, 0.3, 2.5) for c in (first, second)], [world.pair_radius] * 2
        return [near(MIDDLE, c + 0.5, 2.5, 0.3) for c in (first, second)], [world.pair_radius] * 2
    if len(caption.things) == 2:
        corners = [(8.5, 9.0), (23.5, 24.0)]
    else:
        corners = [(8.0, 9.0), (24.0, 9.0), (16.0, 24.0)]
    return [near(x, y, 0.3, 0.3) for x, y in corners], [world.group_radius] * len(corners)


def replace_object(scene: Scene, index: int, shape: Shape) -> Scene:
    """The same scene with one object exchanged."""
    objects = list(scene.objects)
    objects[index] = shape
    return replace(scene, objects=tuple(objects))


def refilled(scene: Scene, filled: bool) -> Scene:
    """The same scene with every object filled, or every object an outline."""
    return replace(scene, objects=tuple(replace(shape, filled=filled) for shape in scene.objects))
