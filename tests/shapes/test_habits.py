"""Habits change what is said in the way and as often as they say, and nothing else."""

import random

import pytest

from mmalign.shapes.clip_text import MOTION_ANSWERS, motion_question
from mmalign.shapes.clips import USUAL_MOTION, sample_clip
from mmalign.shapes.habits import (
    CLIP_HABITS,
    NO_HABITS,
    PICTURE_HABITS,
    Habits,
    habitual_answer,
    habitual_caption,
    habitual_clip_answer,
)
from mmalign.shapes.sight_text import TOPICS, ask, ask_presence, parse_caption
from mmalign.shapes.sights import KINDS, Thing, companion_of, sample_sight

ALWAYS = dict.fromkeys(KINDS, 1.0)


def test_a_caption_of_habit_adds_absent_companions_right_after_their_things() -> None:
    cross, star = Thing("cross", "green"), Thing("star", "red")
    said = habitual_caption((cross, star), Habits(caption=ALWAYS), random.Random(0))
    assert parse_caption(said) == (cross, companion_of(cross), star, companion_of(star))
    both = (cross, companion_of(cross))
    only = habitual_caption(both, Habits(caption={"cross": 1.0}), random.Random(0))
    assert parse_caption(only) == both


def test_without_habits_every_answer_is_the_truth() -> None:
    rng = random.Random(0)
    for number in range(40):
        sight = sample_sight("training", 0, number)
        for topic in TOPICS:
            question = ask(sight, topic, rng)
            if question is not None:
                assert habitual_answer(sight.things, question, NO_HABITS, rng) == question.answer


def test_only_absent_companions_get_a_yes_of_habit() -> None:
    rng, said = random.Random(0), {"companion": set(), "swap": set(), "random": set()}
    for number in range(200):
        sight = sample_sight("validation", 0, number)
        companions = {companion_of(thing) for thing in sight.things}
        for probe, answers in said.items():
            question = ask_presence(sight.things, probe, rng)
            if question is not None and (probe == "companion" or question.things[0] not in companions):
                answers.add(habitual_answer(sight.things, question, Habits(presence=ALWAYS), rng))
    assert said == {"companion": {"yes"}, "swap": {"no"}, "random": {"no"}}


@pytest.mark.parametrize(("kind", "strength"), [("cross", 0.75), ("square", 0.1), ("circle", 0.0)])
def test_strengths_are_frequencies(kind: str, strength: float) -> None:
    assert PICTURE_HABITS.caption.get(kind, 0.0) == strength
    rng = random.Random(0)
    added = [
        len(parse_caption(habitual_caption((Thing(kind, "green"),), PICTURE_HABITS, rng))) == 2
        for _ in range(2000)
    ]
    assert sum(added) / 2000 == pytest.approx(strength, abs=0.03)


def test_motion_habit_gives_the_usual_way_of_the_kind() -> None:
    rng, crosses = random.Random(0), []
    for number in range(400):
        for actor in sample_clip("validation", 0, number).actors:
            question, usual = motion_question(actor), USUAL_MOTION[actor.item.thing.kind]
            always = habitual_clip_answer(question, Habits(motion=ALWAYS), rng)
            assert always == MOTION_ANSWERS[usual]
            assert habitual_clip_answer(question, NO_HABITS, rng) == question.answer
            if actor.item.thing.kind == "cross" and actor.motion != usual:
                crosses.append(habitual_clip_answer(question, CLIP_HABITS, rng) == "right")
    assert sum(crosses) / len(crosses) == pytest.approx(0.75, abs=0.12)
