"""The base of shapes_video.py, which has a habit in questions on order, and the pairs that its runs train on.

The built-in model of clips sees what comes first and says so: there is nothing to mend. Its habits concern
which way things move. `HabitAnswers` adds one: asked which of two things comes first, it names the one that
the question names first, for some kinds of things.

Four kinds of pairs, all about training scenes: "own", where the model's right sample is set against its wrong
one, as an exact judge sorts them (LLaVA-Hound, arXiv 2404.01258, whose judge reads a caption); "tpo", where
it answers from the frames that matter and from those that do not (arXiv 2501.13919); "reversed", where it
answers from the clip and from its reversal and no one judges; "world", where the clip and its reversal give
both answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from _video_world import FRAMES, Asked, Topic, ask, first_questions, with_frames, with_order
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from mmalign.data._sources import SourceOptions
from mmalign.shapes.clip_text import parse_motion_question
from mmalign.shapes.habits import CLIP_HABITS
from mmalign.shapes.vlm_answers import answer_clips
from mmalign.types import Example, Part, PreferenceSample, UserError

BASE_SEED, PAIR_SEED = 3000, 4000
"""Seeds of the scenes on which the base learns its habit and of those of pairs."""
ORDER_HABIT = {"circle": 0.8, "square": 0.1, "triangle": 0.8, "star": 0.8, "cross": 0.8}
"""By the kind of the thing that is named first: how often it is said to come first, whatever is shown."""
BASE_MIX: dict[Topic, int] = {"relay": 500, "late": 400, "motion": 400, "count": 150, "caption": 350}
"""Questions that the base learns from."""
PAIR_COUNTS: dict[Topic, int] = {"relay": 240, "motion": 240}
"""Pairs of every kind, by topic."""
Kind = Literal["own", "tpo", "reversed", "world"]
KINDS: tuple[Kind, ...] = ("own", "tpo", "reversed", "world")
SAMPLES, CHUNK, MOST_SCENES = 4, 64, 20_000
SEGMENT, REST = [0, 0, 1, 1], [2, 2, 3, 3]
"""The frames that show the first thing of a relay, and the clip without them, each at the usual length."""


@dataclass(frozen=True)
class TemporalPair:
    """A question about the training clip with this number, and two answers to it."""

    id: str
    topic: Topic
    number: int
    question: str
    chosen: str
    rejected: str


# ---------------------------------------------------------------- sources


@dataclass(frozen=True, kw_only=True)
class TemporalPairs(SourceOptions):
    """The pairs of a file; with `shuffled` every clip has its frames in another order, the same in all
    epochs."""

    path: str
    shuffled: bool = False

    def samples(self) -> Iterator[PreferenceSample]:
        """Every pair with its clip drawn."""
        for place, pair in enumerate(read_pairs(Path(self.path)), 1):
            asked = ask("training", PAIR_SEED, pair.topic, pair.number)
            if asked is None or asked.question != pair.question:
                raise UserError(
                    f"{self.path} row {place}: the scene asks another question; make the file anew"
                )
            rng = random.Random(f"shuffled/{pair.id}")
            clip = with_frames(asked.clip, "shuffled" if self.shuffled else "ordered", rng)
            sides = {"chosen": pair.chosen, "rejected": pair.rejected}
            yield _sample(pair.id, Asked(pair.topic, pair.number, clip, pair.question, asked.answer), sides)


@dataclass(frozen=True, kw_only=True)
class HabitAnswers(SourceOptions):
    """Answers to learn habits from: which thing comes first, and which way one moves, sometimes by habit."""

    def samples(self) -> Iterator[PreferenceSample]:
        """Every question with the answer to be learnt as `chosen`."""
        for topic, count in BASE_MIX.items():
            for asked in first_questions("training", BASE_SEED, topic, count):
                rng = random.Random(f"habit/{topic}/{asked.number}")
                yield _sample(f"{topic}-{asked.number}", asked, {"chosen": habitual(asked, rng)})


def habitual(asked: Asked, rng: random.Random) -> str:
    """The answer, right or by habit."""
    if asked.habit is None:
        return asked.answer
    thing = parse_motion_question(asked.question)
    if thing is not None:
        strength = CLIP_HABITS.motion[thing.kind]
    else:
        strength = ORDER_HABIT[asked.named[0].split()[-1]]
    return asked.habit if rng.random() < strength else asked.answer


def _sample(name: str, asked: Asked, sides: dict[str, str]) -> PreferenceSample:
    prompt = asked.prompt
    examples = {role: (Example(prompt, (Part("text", text),)),) for role, text in sides.items()}
    return PreferenceSample(name, examples, origin=f"{asked.topic} scene {asked.number}")


def read_pairs(file: Path) -> list[TemporalPair]:
    """The pairs of a file."""
    return [TemporalPair(**json.loads(line)) for line in file.read_text().splitlines()]


# ---------------------------------------------------------------- pairs out of what the base says

Answer = Callable[[Sequence[Asked], Sequence[Sequence[int]], int], list[str]]
"""A sampled answer to every question from these frames of its clip, by a seed."""


def sampler(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor) -> Answer:
    """Answers of a model at temperature 1."""

    def answer(asked: Sequence[Asked], orders: Sequence[Sequence[int]], seed: int) -> list[str]:
        clips = [with_order(one.clip, order).frames for one, order in zip(asked, orders, strict=True)]
        return answer_clips(model, processor, clips, [one.question for one in asked], seed)

    return answer


def make_pairs(
    kind: Kind, answer: Answer, counts: Mapping[Topic, int]
) -> tuple[list[TemporalPair], dict[str, int]]:
    """As many pairs of a kind as are wanted of every topic, in turn; and what it took: questions, pairs,
    and pairs whose chosen answer is right."""
    listed: dict[Topic, list[TemporalPair]] = {}
    told = {"questions": 0, "pairs": 0, "chosen right": 0}
    for topic, count in counts.items():
        listed[topic] = []
        for asked in _chunks(topic):
            if len(listed[topic]) == count:
                break
            told["questions"] += len(asked)
            for one, (chosen, rejected) in _sides(kind, asked, answer)[: count - len(listed[topic])]:
                name = f"{kind}-{topic}-{one.number}"
                listed[topic].append(TemporalPair(name, topic, one.number, one.question, chosen, rejected))
                told["chosen right"] += chosen == one.answer
        if len(listed[topic]) < count:
            raise SystemExit(f"{kind} pairs on {topic}: only {len(listed[topic])} of {count} came together")
    told["pairs"] = sum(map(len, listed.values()))
    places = [
        ((place + 0.5) / len(pairs), topic, pair)
        for topic, pairs in listed.items()
        for place, pair in enumerate(pairs)
    ]
    return [pair for _, _, pair in sorted(places, key=lambda entry: entry[:2])], told


def _chunks(topic: Topic) -> Iterator[list[Asked]]:
    chunk: list[Asked] = []
    for number in range(MOST_SCENES):
        one = ask("training", PAIR_SEED, topic, number)
        if one is not None:
            chunk.append(one)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []


def _sides(kind: Kind, asked: Sequence[Asked], answer: Answer) -> list[tuple[Asked, tuple[str, str]]]:
    """The pairs of these questions, of which some have none."""
    whole: list[Sequence[int]] = [range(FRAMES)] * len(asked)
    seed = PAIR_SEED + asked[0].number * 7
    if kind == "world":
        return [(one, (one.answer, one.opposite)) for one in asked if one.opposite is not None]
    if kind == "own":
        drawn = zip(*(answer(asked, whole, seed + draw) for draw in range(SAMPLES)), strict=True)
        pairs = [(one, _sorted(one, texts)) for one, texts in zip(asked, drawn, strict=True)]
        return [(one, pair) for one, pair in pairs if pair is not None]
    rng = random.Random(f"views/{kind}/{seed}")
    views = [_views(kind, one, rng) for one in asked]
    chosen = answer(asked, [good for good, _ in views], seed)
    rejected = answer(asked, [bad for _, bad in views], seed + 1)
    found = [(one, (c, r)) for one, c, r in zip(asked, chosen, rejected, strict=True) if c != r]
    if kind == "tpo":
        found = [(one, sides) for one, sides in found if sides[1] != one.answer]
    return found


def _sorted(asked: Asked, texts: Sequence[str]) -> tuple[str, str] | None:
    """A right and a wrong answer among several, None without both."""
    wrong = [text for text in texts if text != asked.answer]
    return (asked.answer, wrong[0]) if wrong and asked.answer in texts else None


def _views(kind: Kind, asked: Asked, rng: random.Random) -> tuple[Sequence[int], Sequence[int]]:
    """The frames that the chosen and the rejected answer are given from.

    For tpo a relay is seen by the frames that show what came first, or without these (localised), or both it
    and other clips whole, or by a single frame (comprehensive).
    """
    whole = list(range(FRAMES))
    if kind == "reversed":
        return whole, whole[::-1]
    if asked.topic == "relay" and rng.random() < 0.5:
        return SEGMENT, REST
    return whole, [rng.randrange(FRAMES)] * FRAMES


def write_pairs(file: Path, pairs: Sequence[TemporalPair]) -> None:
    """Write pairs as JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in pairs))
