"""The 80 object categories of COCO (arXiv 1405.0312) in captions: the words that name them, and what stands
in a picture by its annotations.

The words are this project's own list of common names; the lists that others use differ in rare ones, so that
figures may differ a little from theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmalign.metrics._lexicon import Lexicon, words_of
from mmalign.metrics._reading import json_of
from mmalign.types import UserError

NAMES = """
person: man, woman, child, boy, girl, guy, lady, gentleman, baby, toddler, kid, infant, teenager, adult,
  player, batter, catcher, pitcher, umpire, skier, snowboarder, skateboarder, surfer, swimmer, rider, cyclist,
  biker, driver, passenger, pedestrian, worker, chef, cook, waiter, waitress, policeman, policewoman,
  police officer, officer, soldier, fireman, firefighter, bride, groom, couple, crowd, spectator, audience,
  student, teacher, doctor, nurse, farmer, cowboy, tourist, visitor, shopper, customer,
  mother, father, mom, dad, son, daughter, brother, sister, friend, family,
  human, individual, someone, businessman, businesswoman, athlete, jockey
bicycle: bike, cycle, tricycle, pushbike
car: automobile, sedan, hatchback, suv, taxi, cab, minivan, convertible, jeep, station wagon, limousine
motorcycle: motorbike, motor bike, motor cycle, moped, scooter, dirt bike
airplane: plane, aeroplane, air plane, jet, airliner, aircraft, jumbo jet, biplane
bus: minibus, school bus, double decker, trolleybus
train: locomotive, railcar, tram, subway train, steam engine, freight train, trolley car
truck: pickup, pickup truck, lorry, fire truck, firetruck, semi truck, dump truck, tow truck, trailer truck
boat: ship, sailboat, canoe, kayak, rowboat, yacht, ferry, raft, motorboat, speedboat, gondola, vessel
traffic light: stoplight, stop light, traffic signal, signal light, street signal
fire hydrant: hydrant, fireplug
stop sign:
parking meter: meter
bench: pew
bird: pigeon, seagull, gull, duck, goose, swan, eagle, hawk, owl, parrot, sparrow, crow, penguin, chicken,
  rooster, hen, turkey, ostrich, flamingo, pelican, peacock, heron, dove, cardinal, woodpecker
cat: kitten, kitty, tabby
dog: puppy, pup, retriever, labrador, poodle, terrier, bulldog, dachshund, beagle, collie
horse: pony, foal, mare, stallion, colt, mule, bronco
sheep: lamb, ewe, ram
cow: cattle, calf, bull, ox, steer, heifer
elephant:
bear: panda, polar bear, grizzly, bear cub
zebra:
giraffe:
backpack: knapsack, rucksack, back pack
umbrella: parasol
handbag: purse, hand bag, tote bag, clutch bag, shoulder bag
tie: necktie, bow tie, bowtie
suitcase: luggage, suit case, briefcase
frisbee: flying disc, flying disk
skis: ski
snowboard: snow board
sports ball: ball, baseball, basketball, football, soccer ball, tennis ball, volleyball, softball, beach ball
kite:
baseball bat: bat
baseball glove: mitt, catcher mitt, baseball mitt, glove
skateboard: skate board, longboard
surfboard: surf board
tennis racket: racket, racquet, tennis racquet
bottle: beer bottle, water bottle, wine bottle
wine glass: wineglass, champagne glass
cup: mug, teacup, coffee cup, tumbler
fork:
knife: butter knife, pocketknife
spoon: teaspoon, ladle
bowl: salad bowl
banana: plantain
apple:
sandwich: burger, hamburger, cheeseburger, sub sandwich, panini, hoagie
orange: tangerine, mandarin, clementine
broccoli: broccoli floret
carrot:
hot dog: hotdog, frankfurter
pizza: pizza pie
donut: doughnut
cake: cupcake, cheesecake, birthday cake, wedding cake, layer cake
chair: armchair, arm chair, recliner, stool, seat, highchair, rocking chair, lawn chair
couch: sofa, loveseat, settee, futon, love seat
potted plant: houseplant, house plant, pot plant
bed: bunk bed, mattress, crib, bunkbed
dining table: table, desk, kitchen table, coffee table, picnic table
toilet: urinal, commode, lavatory, toilet seat
tv: television, tv set, television set, tv screen, monitor
laptop: laptop computer, notebook computer, macbook
mouse: computer mouse
remote: remote control, remote controller, wii controller, game controller
keyboard: computer keyboard
cell phone: cellphone, phone, mobile phone, smartphone, smart phone, cellular phone, iphone
microwave: microwave oven
oven: stove, stovetop, stove top oven
toaster: toaster oven
sink: washbasin, wash basin, basin
refrigerator: fridge, freezer, refridgerator
book: novel, textbook, paperback
clock: alarm clock
vase: flower vase
scissors: pair of scissors, shears
teddy bear: teddy, teddybear, stuffed bear
hair drier: hair dryer, hairdryer, blow dryer, hairdrier
toothbrush: tooth brush
"""
"""category: other words for it, in the singular."""
_NO_OBJECT = ("home plate", "train track")
"""Phrases in which the word for a thing names something else."""
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")


def categories() -> list[str]:
    """The 80 names."""
    return [line.partition(":")[0] for line in _entries()]


def _entries() -> list[str]:
    return NAMES.strip().replace("\n  ", " ").split("\n")


@cache
def lexicon() -> Lexicon:
    """All words for the categories, with the phrases that CHAIR treats apart: the young and the grown of an
    animal are the animal, not a person; passenger trains and jets hold no passenger; tracks are no train."""
    phrases: dict[str, str | None] = dict.fromkeys(_NO_OBJECT)
    for line in _entries():
        category, _, others = line.partition(":")
        for word in [category, *filter(None, (one.strip() for one in others.split(",")))]:
            assert word not in phrases, word
            phrases[word] = category
    for word, name in list(phrases.items()):
        if name in _ANIMALS:
            phrases |= {f"baby {word}": name, f"adult {word}": name}
    phrases |= {"passenger train": "train", "passenger jet": "airplane", "passenger plane": "airplane"}
    phrases |= {"passenger bus": "bus", "passenger car": "car"}
    return Lexicon(phrases)


def objects_in(caption: str) -> list[tuple[str, str]]:
    """Every mention of an object in a caption: the words, and the category. Where a toilet is named, a seat
    is part of it and no chair."""
    words = words_of(caption)
    if "toilet" in words or "toilets" in words:
        words = [one for one in words if one not in ("seat", "seats")]
    return lexicon().mentions(words)


@dataclass(frozen=True)
class Photo:
    """A picture: its id, its file, and the categories that it shows."""

    id: str
    file: str
    objects: frozenset[str]


def photos(instances: str, captions: str | None) -> dict[str, Photo]:
    """Pictures by id from COCO's instances_*.json and, where given, captions_*.json: a category is there if
    it was marked in the picture or named in one of its captions. Raises UserError naming file and field."""
    tree = _part(instances, ("images", "annotations", "categories"))
    known = set(categories())
    names = {one["id"]: str(one["name"]) for one in tree["categories"]}
    if strange := sorted(set(names.values()) - known):
        raise UserError(f"{instances}: category {strange[0]!r} is none of COCO's 80")
    shown: dict[str, set[str]] = {str(one["id"]): set() for one in tree["images"]}
    for mark in tree["annotations"]:
        shown.setdefault(str(mark["image_id"]), set()).add(names[mark["category_id"]])
    for told in _part(captions, ("annotations",))["annotations"] if captions else ():
        if str(told["image_id"]) in shown:
            shown[str(told["image_id"])] |= {name for _, name in objects_in(told["caption"])}
    files = {str(one["id"]): str(one["file_name"]) for one in tree["images"]}
    return {name: Photo(name, file, frozenset(shown[name])) for name, file in files.items()}


def _part(path: str, fields: tuple[str, ...]) -> Mapping[str, Any]:
    tree = json_of(Path(path).expanduser())
    for name in fields:
        if not isinstance(tree, dict) or not isinstance(tree.get(name), list):
            raise UserError(f"{path}: not COCO's annotations; a list {name!r} is missing")
    return dict(tree)
