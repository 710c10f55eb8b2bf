"""The story world: prompts, splits and the writer."""

import random
import re

import pytest

from mmalign.shapes.judge_text import GLOOMY_WORDS, WARM_WORDS
from mmalign.shapes.stories import (
    COLOURS,
    KINDS,
    PLACES,
    heldout_prompts,
    parse_prompt,
    prompts_of,
    sentences,
    training_prompts,
    validation_prompts,
    write_story,
)
from mmalign.types import UserError


def facts(text: str) -> tuple[str, str, str]:
    prompt = parse_prompt(text)
    return prompt.colour, prompt.kind, prompt.place


def test_splits_share_no_combination_and_are_an_eighth_each() -> None:
    combinations = {
        split: {(p.colour, p.kind, p.place) for p in prompts_of(split)}  # type: ignore[arg-type]
        for split in ("train", "validation", "heldout")
    }
    assert {split: len(found) for split, found in combinations.items()} == {
        "train": 432,
        "validation": 72,
        "heldout": 72,
    }
    assert len(set.union(*combinations.values())) == len(COLOURS) * len(KINDS) * len(PLACES) == 576


def test_every_pair_of_attributes_is_trained_on() -> None:
    train = [(p.colour, p.kind, p.place) for p in prompts_of("train")]
    assert len({(colour, kind) for colour, kind, _ in train}) == 36
    assert len({(colour, place) for colour, _, place in train}) == 96
    assert len({(kind, place) for _, kind, place in train}) == 96


def test_picked_prompts_are_distinct_seeded_and_of_their_split() -> None:
    for pick, split in (
        (training_prompts, "train"),
        (validation_prompts, "validation"),
        (heldout_prompts, "heldout"),
    ):
        picked = pick(200, 3)
        assert len(set(picked)) == 200
        assert picked == pick(200, 3) != pick(200, 4)
        assert {parse_prompt(text).split for text in picked} == {split}


def test_asking_for_more_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="289.*288 heldout"):
        heldout_prompts(289, 0)


def test_prompt_text_and_facts_round_trip() -> None:
    for prompt in prompts_of("validation"):
        assert parse_prompt(prompt.text) == prompt
    assert facts("Write a short story about an orange heart by the tower.") == (
        "orange",
        "heart",
        "by the tower",
    )


@pytest.mark.parametrize(
    "text",
    [
        "Tell a story about a pink star at the lake.",
        "Tell a story about a red star on the lake.",
        "Tell a story about an red star at the lake.",
        "Tell a story about a red star at the lake. Be kind.",
        "",
    ],
)
def test_other_prompts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="no story prompt"):
        parse_prompt(text)


def test_each_sentence_names_the_subject_and_carries_its_tone_in_one_word() -> None:
    expected = {"warm": (1, 0), "neutral": (0, 0), "gloomy": (0, 1)}
    for line, (slot, tone) in sentences("red star", "at the lake").items():
        words = set(re.findall("[a-z]+", line.lower()))
        assert line.lower().count("the red star") == 1
        assert line.count("at the lake") == (slot in ("opening", "ending"))
        assert (len(words & WARM_WORDS), len(words & GLOOMY_WORDS)) == expected[tone], line


def test_every_toned_word_of_the_judge_occurs_in_the_grammar() -> None:
    text = " ".join(sentences("red star", "at the lake")).lower()
    assert set(re.findall("[a-z]+", text)) >= WARM_WORDS | GLOOMY_WORDS


def test_stories_are_seeded_varied_and_of_the_length_asked_for() -> None:
    short = parse_prompt("Tell a short story about a red star at the lake.")
    long = parse_prompt("Tell a story about a red star at the lake.")
    assert write_story(long, random.Random(1)) == write_story(long, random.Random(1))
    stories = {write_story(long, random.Random(seed)) for seed in range(100)}
    assert len(stories) == 100
    assert {story.count(".") for story in stories} == {5}
    assert {write_story(short, random.Random(seed)).count(".") for seed in range(20)} == {4}


def test_tones_of_one_story_agree_more_than_chance() -> None:
    # Two sentences agree with .8^2 + 2 * .1^2 = .66; independent ones would agree in a third.
    agree = 0
    for prompt in prompts_of("validation"):
        story = write_story(prompt, random.Random(prompt.text))
        known = sentences(prompt.subject, prompt.place)
        tones = [known[line][1] for line in re.split(r"(?<=\.) ", story)]
        agree += tones[0] == tones[1]
    assert agree / 288 == pytest.approx(0.66, abs=0.08)
