"""The judge of stories accepts the whole grammar, rejects single faults, and counts tone as stated."""

import random
import re

import pytest

from mmalign.shapes.judge_text import judge_text
from mmalign.shapes.stories import prompts_of, write_story
from mmalign.types import UserError

PROMPT = "Tell a story about a red star at the lake."
LINES = [
    "It is a sunny morning at the lake, and the red star wakes up.",
    "The red star feels sad today.",
    "First the red star sings a merry song.",
    "Later a fox tells the red star a strange story.",
    "At night the red star goes to sleep at the lake.",
]
STORY = " ".join(LINES)


def test_worked_example() -> None:
    # Warm: sunny, merry. Gloomy: sad.
    verdict = judge_text(PROMPT, STORY)
    assert (verdict.warm, verdict.gloomy, verdict.tone, verdict.score) == (2, 1, 1, 1.0)
    assert verdict.valid and verdict.grammar == 1.0


def test_written_stories_are_accepted() -> None:
    rng = random.Random(0)
    prompts = prompts_of("train") + prompts_of("heldout")
    for prompt in rng.sample(prompts, 300):
        verdict = judge_text(prompt.text, write_story(prompt, rng))
        assert verdict.valid and verdict.grammar == 1.0


@pytest.mark.parametrize(
    ("fault", "response", "grammar"),
    [
        ("wrong colour in one sentence", STORY.replace("red star feels", "blue star feels"), 4 / 5),
        ("wrong kind throughout", STORY.replace("star", "circle"), 0.0),
        ("wrong place in the opening", STORY.replace("at the lake, and", "in the cave, and"), 4 / 5),
        ("wrong place in the ending", STORY.replace("sleep at the lake", "sleep in the cave"), 4 / 5),
        ("wrong place throughout", STORY.replace("at the lake", "in the cave"), 3 / 5),
        ("pronoun for the name", STORY.replace("The red star feels", "It feels"), 4 / 5),
        ("dropped sentence", " ".join(LINES[:3] + LINES[4:]), 4 / 5),
        ("dropped ending", " ".join(LINES[:4]), 4 / 5),
        ("repeated sentence", " ".join([*LINES[:3], LINES[2], *LINES[3:]]), 5 / 6),
        ("sentences swapped", " ".join([LINES[1], LINES[0], *LINES[2:]]), 5 / 5),
        ("wrong word order", STORY.replace("feels sad today", "today sad feels"), 4 / 5),
        ("two words joined", STORY.replace("merry song", "merrysong"), 4 / 5),
        ("word of another slot", STORY.replace("merry song", "sunny song"), 4 / 5),
        ("text after the end", STORY + " The end.", 5 / 6),
        ("cut off", STORY[:-1], 4 / 5),
        ("two spaces", STORY.replace(". First", ".  First"), 5 / 5),
        ("open template", STORY.replace("red star", "{subject}"), 0.0),
        ("empty", "", 0.0),
    ],
)
def test_single_faults_are_rejected(fault: str, response: str, grammar: float) -> None:
    assert response != STORY
    verdict = judge_text(PROMPT, response)
    assert not verdict.valid, fault
    assert verdict.grammar == pytest.approx(grammar), fault


def test_length_asked_for_is_part_of_validity() -> None:
    short = PROMPT.replace("a story", "a short story")
    assert not judge_text(short, STORY).valid
    assert judge_text(short, " ".join(LINES[:3] + LINES[4:])).valid


def test_story_of_another_prompt_is_rejected() -> None:
    rng = random.Random(1)
    prompts = prompts_of("heldout")
    for prompt in rng.sample(prompts, 50):
        other = rng.choice([p for p in prompts if (p.subject, p.place) != (prompt.subject, prompt.place)])
        assert not judge_text(prompt.text, write_story(other, rng)).valid


def test_tone_counts_distinct_words_and_ignores_grammar() -> None:
    verdict = judge_text(PROMPT, "happy happy Happy joyful, unhappy sad")
    assert (verdict.warm, verdict.gloomy, verdict.tone) == (2, 1, 1)
    assert not verdict.valid and verdict.grammar == 0.0


def test_surrounding_space_is_forgiven() -> None:
    assert judge_text(PROMPT, f"\n{STORY} ").valid


def test_foreign_prompt_is_refused() -> None:
    with pytest.raises(UserError, match=re.escape("no story prompt")):
        judge_text("Tell me a joke.", STORY)
