"""Prompts and preference pairs of the shapes world, made by a program and known to be right.

Everything is a function of its number and seed. Pairs are minimal: two pictures of one scene that differ in
one thing. No training pair contains a held-out (colour, kind) combination; every held-out prompt does.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image

from mmalign.shapes.render import render
from mmalign.shapes.scenes import (
    BASE,
    COLOURS,
    KINDS,
    LARGE_SPREAD,
    MIDDLE,
    OPPOSITE,
    RELATIONS,
    SIZES,
    Caption,
    Scene,
    World,
    caption_of,
    refilled,
    relation_of,
    replace_object,
    sample_heldout_caption,
    sample_scene,
    sample_training_caption,
)


@dataclass(frozen=True)
class ImagePair:
    """Two pictures for one prompt, of which `chosen` is preferred."""

    id: str
    prompt: str
    chosen: Image.Image
    rejected: Image.Image


def style_pairs(num: int, seed: int, world: World = BASE) -> Iterator[ImagePair]:
    """The same scene twice: filled shapes are preferred over outlines. Yields `num` pairs."""
    rng = random.Random(f"style pairs {seed}")
    for index in range(num):
        caption = sample_training_caption(world, rng)
        scene = sample_scene(caption, world, rng)
        filled, outlined = render(refilled(scene, True)), render(refilled(scene, False))
        yield ImagePair(f"style-{seed}-{index}", caption.text, filled, outlined)


def faithful_pairs(num: int, seed: int, world: World = BASE) -> Iterator[ImagePair]:
    """A scene that the prompt describes is preferred over one where a single captioned fact is wrong."""
    rng = random.Random(f"faithful pairs {seed}")
    for index in range(num):
        caption = sample_training_caption(world, rng)
        scene = sample_scene(caption, world, rng)
        wrong = spoiled(scene, world, rng)
        yield ImagePair(f"faithful-{seed}-{index}", caption.text, render(scene), render(wrong))


def spoiled(scene: Scene, world: World, rng: random.Random) -> Scene:
    """The same scene with one captioned fact changed: a kind, a colour, or the third fact of its layout.

    The third fact is the size of a single shape, the relation of a pair and the number of a group. In a group
    all shapes change their kind or colour together.
    """
    while True:
        change = rng.choice((_rekinded, _recoloured, _third_changed))
        wrong = change(scene, world, rng)
        if not caption_of(wrong).held_out:
            return wrong


def validation_prompts(num: int, seed: int, world: World = BASE) -> list[str]:
    """`num` prompts with a held-out combination, for choosing settings; none of them is in `heldout_prompts`.

    Prompts may repeat: the world has only a few captions of a single shape with a held-out combination.
    """
    return _prompts("validation", 0, num, seed, world)


def heldout_prompts(num: int, seed: int, world: World = BASE) -> list[str]:
    """`num` prompts with a held-out combination, for final figures; none of them is in `validation_prompts`.

    Prompts may repeat: the world has only a few captions of a single shape with a held-out combination.
    """
    return _prompts("held-out", 1, num, seed, world)


def _prompts(purpose: str, side: int, num: int, seed: int, world: World) -> list[str]:
    rng = random.Random(f"{purpose} prompts {seed}")
    prompts: list[str] = []
    while len(prompts) < num:
        caption = sample_heldout_caption(world, rng)
        if _side(caption) == side:
            prompts.append(caption.text)
    return prompts


def _side(caption: Caption) -> int:
    """0 (validation) or 1 (held-out): combinations occur on both, with other sizes and relations."""
    total = len(caption.things)
    for thing in caption.things:
        total += KINDS.index(thing.kind) + list(COLOURS).index(thing.colour)
        total += SIZES.index(thing.size) if thing.size is not None else 0
    return (total + (RELATIONS.index(caption.relation) if caption.relation is not None else 0)) % 2


def _chosen(scene: Scene, rng: random.Random) -> list[int]:
    """The objects that change together: all of a group, one of the others."""
    group = len(set(caption_of(scene).things)) == 1
    return list(range(len(scene.objects))) if group else [rng.randrange(len(scene.objects))]


def _rekinded(scene: Scene, world: World, rng: random.Random) -> Scene:
    chosen = _chosen(scene, rng)
    kind = rng.choice([kind for kind in KINDS if kind != scene.objects[chosen[0]].kind])
    for index in chosen:
        scene = replace_object(scene, index, replace(scene.objects[index], kind=kind))
    return scene


def _recoloured(scene: Scene, world: World, rng: random.Random) -> Scene:
    chosen = _chosen(scene, rng)
    taken = {shape.colour for shape in scene.objects}
    colour = rng.choice([colour for colour in COLOURS if colour not in taken])
    for index in chosen:
        scene = replace_object(
            scene, index, replace(scene.objects[index], colour=colour, rgb=COLOURS[colour])
        )
    return scene


def _third_changed(scene: Scene, world: World, rng: random.Random) -> Scene:
    caption = caption_of(scene)
    if caption.relation is not None:
        first, second = scene.objects
        swapped = (replace(first, centre=second.centre), replace(second, centre=first.centre))
        assert relation_of(swapped[0].centre, swapped[1].centre) == OPPOSITE[caption.relation]
        return replace(scene, objects=swapped)
    if len(scene.objects) > 1:
        return replace(scene, objects=scene.objects[:-1])
    shape = scene.objects[0]
    if shape.size == "large":
        return replace_object(scene, 0, replace(shape, radius=world.small_radius))
    x, y = (min(MIDDLE + LARGE_SPREAD, max(MIDDLE - LARGE_SPREAD, place)) for place in shape.centre)
    return replace_object(scene, 0, replace(shape, radius=world.large_radius, centre=(x, y)))
