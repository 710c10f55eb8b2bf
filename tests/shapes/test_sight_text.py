"""Captions and questions about still scenes: round trips, exact answers, one answer only."""

import random

import pytest

from mmalign.shapes.sight_text import (
    COUNTS,
    PROBES,
    TOPICS,
    Question,
    Topic,
    ask,
    ask_presence,
    caption_of,
    named_things,
    parse_caption,
    parse_question,
    relation_of,
)
from mmalign.shapes.sights import Item, Sight, Thing, companion_of, sample_sight
from mmalign.types import UserError

RED, STAR, CROSS = Thing("circle", "red"), Thing("star", "orange"), Thing("cross", "blue")
SIGHTS = [sample_sight("training", 3, number) for number in range(120)]


def item(thing: Thing, x: float, y: float, size: str = "small") -> Item:
    return Item(thing, size, (x, y), (0, 0, 0))


def test_a_caption_names_things_from_left_to_right() -> None:
    assert caption_of((RED,)) == "a red circle"
    assert caption_of((RED, STAR)) == "a red circle and an orange star"
    assert caption_of((RED, STAR, CROSS)) == "a red circle, an orange star and a blue cross"


def test_captions_are_read_back() -> None:
    for sight in SIGHTS:
        assert parse_caption(caption_of(sight.things)) == sight.things


@pytest.mark.parametrize(
    "text",
    ["", "a red circle.", "an red circle", "a red circle and", "a red circle and a blue cross and a red star",
     "a pink circle", "red circle", "A red circle"],
)  # fmt: skip
def test_other_text_is_no_caption(text: str) -> None:
    with pytest.raises(UserError, match="not in the caption language"):
        parse_caption(text)


def test_named_things_are_found_in_any_text() -> None:
    assert named_things("yes, a red circle near two orange stars and an orange star!") == {RED, STAR}
    assert named_things("a red big circle") == frozenset()


def questions(topic: Topic) -> list[tuple[Sight, Question]]:
    rng = random.Random(topic)
    asked = [(sight, ask(sight, topic, rng)) for sight in SIGHTS]
    return [(sight, question) for sight, question in asked if question is not None]


def test_every_topic_is_asked_often() -> None:
    assert all(len(questions(topic)) > 40 for topic in TOPICS)


def test_colour_and_shape_have_one_answer() -> None:
    for sight, question in questions("colour"):
        kind = question.text.removeprefix("What colour is the ").removesuffix("?")
        assert [thing.colour for thing in sight.things if thing.kind == kind] == [question.answer]
    for sight, question in questions("shape"):
        colour = question.text.removeprefix("What shape is ").removesuffix("?")
        assert [thing.kind for thing in sight.things if thing.colour == colour] == [question.answer]


def test_counts_and_sizes_are_those_of_the_scene() -> None:
    for sight, question in questions("count"):
        asked = question.text.removeprefix("How many ").removesuffix(" are there?")
        things = [t for t in sight.things if asked in ("objects", f"{t.kind}s", f"{t.kind}es")]
        assert question.answer == COUNTS[len(things)]
    for sight, question in questions("size"):
        assert [item.size for item in sight.items if item.thing == question.things[0]] == [question.answer]


def test_presence_is_asked_of_what_the_probe_says() -> None:
    rng, seen = random.Random(0), set()
    for sight in SIGHTS:
        for probe in PROBES:
            question = ask_presence(sight.things, probe, rng)
            if question is None:
                continue
            thing = question.things[0]
            assert parse_question(question.text) == thing and question.probe == probe
            assert question.answer == ("yes" if thing in sight.things else "no")
            assert (question.answer == "yes") == (probe == "true")
            if probe == "companion":
                assert thing in {companion_of(other) for other in sight.things}
            if probe == "swap":
                assert any(thing.kind == t.kind or thing.colour == t.colour for t in sight.things)
            seen.add(probe)
    assert seen == set(PROBES)
    assert parse_question("How many circles are there?") is None


def test_relations_follow_the_clearly_longer_axis() -> None:
    middle = item(RED, 24, 24)
    places = {"left": (10, 27), "right": (38, 21), "above": (27, 10), "below": (21, 38)}
    for relation, (x, y) in places.items():
        assert relation_of(item(STAR, x, y), middle) == relation
    assert relation_of(item(STAR, 36, 33), middle) is None  # 12 to the right, 9 below: not clear


def test_both_questions_of_relation_agree_with_the_places() -> None:
    phrases = {"left of": "left", "right of": "right", "above": "above", "below": "below"}
    answers = set()
    for topic in ("relation", "relation_check"):
        for sight, question in questions(topic):
            found = {item.thing: item for item in sight.items}
            truth = relation_of(*(found[thing] for thing in question.things))
            if topic == "relation":
                assert question.answer == truth
            else:
                said = next(value for words, value in phrases.items() if f" {words} the " in question.text)
                assert question.answer == ("yes" if said == truth else "no")
            answers.add(question.answer)
    assert answers == {"left", "right", "above", "below", "yes", "no"}
