"""What shapes_vlm.py asks a model of pictures: on one picture, on one among several, and how likely it holds
a right caption and a wrong one, with the picture, without it, and under another.

Scenes are those of a stream as they come; no pair and no training of the shipped model has them.
"""

import random
from collections.abc import Sequence

from _seeing import SEED, Asked, Prompt, seeing_prompts
from torch import nn

from mmalign.builders._collages import several, shown
from mmalign.shapes.judges import CaptionJudge
from mmalign.shapes.sight_text import DESCRIBE_PICTURE, Question, ask, caption_of
from mmalign.shapes.sights import ALL_THINGS, Sight, Split, Thing, companion_of, render_sight, sample_sight
from mmalign.types import Adapter, Example, Message, Part, PreferenceSample

COUNTS = (2, 3, 4)
"""Numbers of pictures in a prompt; they take turns."""
FIRST_OF_SEVERAL = 100_000
"""Number of the first scene of prompts with several pictures, beyond those of the others."""
ROWS = 50


def one_picture(split: Split, count: int) -> dict[str, list[Asked]]:
    """Captions and presence questions, by the prefix of their figures."""
    return seeing_prompts("vlm", count, split)


# ---------------------------------------------------------------- one among several


def among_several(split: Split, count: int) -> dict[str, list[Asked]]:
    """The same two questions on one picture of a sequence of 2 to 4, by prefix. Who looks at the wrong one or
    at all of them is caught: half of the answers on presence are no, and what is asked for then is there in
    another picture."""
    rng = random.Random(f"several/{split}/{SEED}")
    found: dict[str, list[Asked]] = {"several caption ": [], "several ": []}
    number = FIRST_OF_SEVERAL
    for place in range(count):
        size = COUNTS[place % len(COUNTS)]
        sights = [sample_sight(split, SEED, number + i) for i in range(size)]
        target = rng.randrange(size)
        while not _elsewhere(sights, target):
            number += size
            sights = [sample_sight(split, SEED, number + i) for i in range(size)]
        number += size
        there = rng.random() < 0.5
        thing = rng.choice(list(sights[target].things) if there else _elsewhere(sights, target))
        found["several caption "].append(_asked(sights, target, DESCRIBE_PICTURE))
        found["several "].append(_asked(sights, target, f"Is there {thing.phrase}?"))
    return found


def _elsewhere(sights: Sequence[Sight], target: int) -> list[Thing]:
    """Things of the other pictures that the one asked about does not show."""
    own = sights[target].things
    return [t for i, sight in enumerate(sights) if i != target for t in sight.things if t not in own]


def _asked(sights: Sequence[Sight], target: int, question: str) -> Asked:
    pictures = [render_sight(sight) for sight in sights]
    alone = (Message("user", (Part("image", pictures[target]), Part("text", question))),)
    return Asked(several(alone, shown("sequence", pictures), f"In Image{target + 1}"), alone)


# ---------------------------------------------------------------- likelihoods


def right_and_wrong(split: Split, count: int) -> list[tuple[Prompt, str, str]]:
    """A caption prompt with the true caption, and with that in which an absent companion of a thing stands in
    the place of another: as long, and wrong in a way that only the picture tells."""
    rng = random.Random(f"wrong/{split}/{SEED}")
    found: list[tuple[Prompt, str, str]] = []
    for number in range(count):
        sight = sample_sight(split, SEED, number)
        question = ask(sight, "caption", rng)
        assert question is not None
        prompt = (Message("user", (Part("image", render_sight(sight)), Part("text", question.text))),)
        found.append((prompt, question.answer, _exchanged(sight, question, rng)))
    return found


def _exchanged(sight: Sight, question: Question, rng: random.Random) -> str:
    things = list(sight.things)
    absent = [companion_of(thing) for thing in things if companion_of(thing) not in things]
    place = rng.randrange(len(things))
    things[place] = rng.choice(absent or [thing for thing in ALL_THINGS if thing not in things])
    assert caption_of(things) != question.answer
    return caption_of(things)


def margins(
    adapter: Adapter, model: nn.Module, listed: Sequence[tuple[Prompt, str, str]]
) -> dict[str, list[float]]:
    """log p(right) - log p(wrong) in nats `with` the picture, `without` it and under an `other` one, the next
    prompt's; and `right`, log p(right) with the picture."""
    prompts = [prompt for prompt, _, _ in listed]
    changed = {
        "with": prompts,
        "without": [_text_only(prompt) for prompt in prompts],
        "other": [_picture_of(prompts[i - 1], prompt) for i, prompt in enumerate(prompts)],
    }
    sides = [right for _, right, _ in listed], [wrong for _, _, wrong in listed]
    found: dict[str, list[float]] = {}
    for name, shown_ones in changed.items():
        right, wrong = (_log_likelihoods(adapter, model, shown_ones, side) for side in sides)
        found[f"margin {name}"] = [round(a - b, 4) for a, b in zip(right, wrong, strict=True)]
        if name == "with":
            found["right"] = [round(value, 4) for value in right]
    return found


def leanings(adapter: Adapter, model: nn.Module, listed: Sequence[Asked]) -> list[float]:
    """log p(right) - log p(wrong) in nats of yes and no to questions on presence."""
    prompts = [one.prompt for one in listed]
    yes, no = (_log_likelihoods(adapter, model, prompts, [answer] * len(prompts)) for answer in ("yes", "no"))
    signs = [2 * CaptionJudge().score(one.judged, Part("text", "yes"))["presence"] - 1 for one in listed]
    return [round(sign * (a - b), 4) for sign, a, b in zip(signs, yes, no, strict=True)]


def _text_only(prompt: Prompt) -> Prompt:
    (turn,) = prompt
    return (Message(turn.speaker, tuple(part for part in turn.parts if part.kind == "text")),)


def _picture_of(other: Prompt, prompt: Prompt) -> Prompt:
    pictures = [part for part in other[0].parts if part.kind == "image"]
    return (Message(prompt[0].speaker, (*pictures, *_text_only(prompt)[0].parts)),)


def _log_likelihoods(
    adapter: Adapter, model: nn.Module, prompts: Sequence[Prompt], answers: Sequence[str]
) -> list[float]:
    """log p(answer | prompt) of every row."""
    found: list[float] = []
    for start in range(0, len(prompts), ROWS):
        rows = list(zip(prompts, answers, strict=True))[start : start + ROWS]
        prepared = []
        for place, (prompt, answer) in enumerate(rows):
            sides = {"chosen": (Example(prompt, (Part("text", answer),)),)}
            prepared.append(adapter.prepare(PreferenceSample(str(start + place), sides), ("chosen",)))
        batch = adapter.collate(adapter.encode(prepared), ("chosen",))
        draw = adapter.draw(batch, [0] * len(rows))
        found += adapter.logprobs(model, batch, draw, frozenset()).total().tolist()
    return found
