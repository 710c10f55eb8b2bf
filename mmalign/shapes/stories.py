"""A tiny language of stories about coloured shapes: prompts, grammar and a writer.

A prompt names a shape, a place and a length: "Tell a short story about a red star at the lake." A story
answers it with four sentences (short) or five: opening, mood, act, event (long stories only) and ending.
Every sentence names the shape; the opening and the ending name the place too. Each sentence but the ending
has a tone (warm, neutral or gloomy), and the sentences of one story mostly share it.

Everything is decided by seeds. `judge_text.py` reads the same grammar.
"""

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from mmalign.types import UserError

Tone = Literal["warm", "neutral", "gloomy"]
Split = Literal["train", "validation", "heldout"]
TONES: tuple[Tone, ...] = ("warm", "neutral", "gloomy")

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
KINDS = ("circle", "square", "triangle", "star", "cross", "heart")
PLACES = (
    "at the lake", "in the forest", "on the hill", "by the river",
    "in the garden", "at the beach", "in the city", "on the farm",
    "in the desert", "by the bridge", "in the valley", "at the market",
    "on the island", "in the park", "by the tower", "in the cave",
)  # fmt: skip
VERBS = ("Tell", "Write")

# A sentence takes its story's tone with this probability, and one of the other two otherwise.
TONE_KEPT = 0.8


@dataclass(frozen=True)
class StoryPrompt:
    """What a prompt asks for: one coloured shape, one place, and a short (4) or long (5 sentences) story."""

    colour: str
    kind: str
    place: str
    short: bool
    verb: str

    @property
    def subject(self) -> str:
        """The shape as every sentence names it, such as "red star"."""
        return f"{self.colour} {self.kind}"

    @property
    def text(self) -> str:
        """The prompt as the user writes it."""
        length = "short story" if self.short else "story"
        article = "an" if self.colour == "orange" else "a"
        return f"{self.verb} a {length} about {article} {self.subject} {self.place}."

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the sentences asked for, in order."""
        return tuple(slot.name for slot in SLOTS if not (self.short and slot.long_only))

    @property
    def split(self) -> Split:
        """Which split the (colour, kind, place) belongs to: train 3/4, validation 1/8, heldout 1/8.

        The rule keeps every pair of two attributes in training: for a fixed pair, at most one value of
        the third is in each of the other two splits.
        """
        mark = COLOURS.index(self.colour) + 3 * KINDS.index(self.kind) + PLACES.index(self.place)
        return {0: "heldout", 4: "validation"}.get(mark % 8, "train")  # type: ignore[return-value]


@dataclass(frozen=True)
class Slot:
    """One sentence of the story: frames, the words that fill `{word}` by tone, and fields without tone.

    Every frame holds `{word}` once, and any word of the slot fits any of its frames: a sentence has one
    tone, carried by one word, and changing the tone never breaks the grammar around it.
    The ending is always neutral. With toned endings, training on preferences spread the toned words from
    the last sentence to the place right after it, and about one run in three no longer ended its stories.
    """

    name: str
    frames: tuple[str, ...]
    words: dict[Tone, tuple[str, ...]]
    plain: dict[str, tuple[str, ...]]
    long_only: bool = False


SLOTS: tuple[Slot, ...] = (
    Slot(
        name="opening",
        frames=(
            "It is a {word} {time} {place}, and the {subject} {start}.",
            "The {time} is {word} {place} when the {subject} {start}.",
            "A {word} {time} begins {place}, and the {subject} {start}.",
        ),
        words={
            "warm": ("sunny", "golden", "bright", "gentle"),
            "neutral": ("cloudy", "cool", "windy", "dry"),
            "gloomy": ("dark", "stormy", "grey", "harsh"),
        },
        plain={
            "time": ("morning", "afternoon", "day"),
            "start": ("wakes up", "looks around", "goes outside"),
        },
    ),
    Slot(
        name="mood",
        frames=(
            "The {subject} feels {word} today.",
            "Today the {subject} is very {word}.",
            "The {subject} is {word} and wants to {wish}.",
        ),
        words={
            "warm": ("happy", "cheerful", "proud", "hopeful", "joyful"),
            "neutral": ("busy", "curious", "hungry", "sleepy", "serious"),
            "gloomy": ("sad", "lonely", "gloomy", "afraid", "sorry"),
        },
        plain={
            "wish": (
                "see the world",
                "walk a while",
                "meet the others",
                "learn something new",
                "climb a tree",
            )
        },
    ),
    Slot(
        name="act",
        frames=(
            "{lead} the {subject} sings a {word} song.",
            "{lead} the {subject} reads a {word} book.",
            "{lead} the {subject} plays a {word} game.",
            "{lead} the {subject} paints a {word} picture.",
        ),
        words={
            "warm": ("merry", "funny", "pretty", "sweet"),
            "neutral": ("long", "simple", "short", "new"),
            "gloomy": ("mournful", "dreary", "bitter", "hopeless"),
        },
        plain={
            "lead": ("First", "Then", "After breakfast", "Before lunch"),
        },
    ),
    Slot(
        name="event",
        frames=(
            "{when} a {animal} brings the {subject} a {word} gift.",
            "{when} a {animal} tells the {subject} a {word} story.",
            "{when} a {animal} shows the {subject} a {word} garden.",
            "{when} a {animal} sends the {subject} a {word} letter.",
        ),
        words={
            "warm": ("lovely", "delightful", "beautiful", "friendly"),
            "neutral": ("small", "strange", "plain", "secret"),
            "gloomy": ("terrible", "cruel", "nasty", "broken"),
        },
        plain={
            "when": ("Soon", "Later", "At noon"),
            "animal": ("fox", "bird", "cat", "mouse", "frog", "horse"),
        },
        long_only=True,
    ),
    Slot(
        name="ending",
        frames=(
            "At night the {subject} {word} {place}.",
            "In the end the {subject} {word} {place}.",
            "So the {subject} {word} {place}.",
        ),
        words={
            "neutral": (
                "goes to sleep",
                "makes a fire",
                "makes new plans",
                "waits for the moon",
                "rests for a while",
                "stays until dawn",
            ),
        },
        plain={},
    ),
)

_PROMPT = re.compile(
    rf"({'|'.join(VERBS)}) a (short )?story about an? "
    rf"({'|'.join(COLOURS)}) ({'|'.join(KINDS)}) ({'|'.join(PLACES)})\."
)


def parse_prompt(text: str) -> StoryPrompt:
    """Read a prompt back into its facts; a text that is no story prompt is a UserError."""
    match = _PROMPT.fullmatch(text.strip())
    if match is not None:
        verb, short, colour, kind, place = match.groups()
        prompt = StoryPrompt(colour, kind, place, short is not None, verb)
        if prompt.text == text.strip():
            return prompt
    raise UserError(
        f"prompt {text!r} is no story prompt; "
        "write it like 'Tell a story about a red star at the lake.' with a known colour, shape and place"
    )


def _expand(slot: Slot, tone: Tone, frame: str) -> Iterator[str]:
    """Every sentence of one frame and tone, with `{subject}` and `{place}` left open."""
    fields = {"word": slot.words[tone]} | slot.plain
    used = [name for name in fields if f"{{{name}}}" in frame]
    for choice in itertools.product(*(fields[name] for name in used)):
        filled = frame
        for name, word in zip(used, choice, strict=True):
            filled = filled.replace(f"{{{name}}}", word)
        yield filled


@lru_cache(maxsize=256)
def sentences(subject: str, place: str) -> dict[str, tuple[str, Tone]]:
    """Every sentence the grammar allows about this subject and place, with its slot's name and its tone."""
    return {
        template.format(subject=subject, place=place): (slot.name, tone)
        for slot in SLOTS
        for tone in slot.words
        for frame in slot.frames
        for template in _expand(slot, tone, frame)
    }


def write_story(prompt: StoryPrompt, rng: random.Random) -> str:
    """Write one story for `prompt`: a tone for the story, then a frame and words for each sentence."""
    story_tone = rng.choice(TONES)
    others = [tone for tone in TONES if tone != story_tone]
    lines = []
    for slot in SLOTS:
        if slot.name not in prompt.slots:
            continue
        tone = story_tone if rng.random() < TONE_KEPT else rng.choice(others)
        words = slot.words.get(tone, slot.words["neutral"])
        fields = {"word": rng.choice(words), "subject": prompt.subject, "place": prompt.place}
        fields |= {name: rng.choice(choices) for name, choices in slot.plain.items()}
        lines.append(rng.choice(slot.frames).format(**fields))
    return " ".join(lines)


@lru_cache(maxsize=3)
def prompts_of(split: Split) -> tuple[StoryPrompt, ...]:
    """All prompts of one split in a fixed order: 1728 of train, 288 of validation, 288 of heldout."""
    every = (
        StoryPrompt(colour, kind, place, short, verb)
        for colour, kind, place in itertools.product(COLOURS, KINDS, PLACES)
        for short, verb in itertools.product((False, True), VERBS)
    )
    return tuple(prompt for prompt in every if prompt.split == split)


def _pick(split: Split, num: int, seed: int) -> list[str]:
    available = prompts_of(split)
    if not 0 <= num <= len(available):
        raise UserError(
            f"num is {num}, but there are {len(available)} {split} prompts; ask for 0 to that many"
        )
    return [prompt.text for prompt in random.Random(f"{split}/{seed}").sample(available, num)]


def training_prompts(num: int, seed: int) -> list[str]:
    """`num` distinct prompts whose (colour, kind, place) the shipped model was trained on."""
    return _pick("train", num, seed)


def validation_prompts(num: int, seed: int) -> list[str]:
    """`num` distinct prompts for choosing settings; their (colour, kind, place) were never trained on."""
    return _pick("validation", num, seed)


def heldout_prompts(num: int, seed: int) -> list[str]:
    """`num` distinct prompts for reported figures; disjoint from training and validation prompts."""
    return _pick("heldout", num, seed)
