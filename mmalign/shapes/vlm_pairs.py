"""Preference pairs out of what the shipped vision-language models say, sampled at temperature 1.

Training pairs come from scenes where the model errs: the rejected side is its own wrong answer. The chosen
side of a caption is its own best caption of the same picture that names nothing absent, and the true one
only where it has none; that of a question is the right answer. Pairs of the validation and held-out streams
take the scenes as they come, so that a model asked those questions meets no selection; where all samples are
right, the rejected side is a plausible wrong answer.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from mmalign.shapes.clip_text import MOTION_ANSWERS, ask_clip
from mmalign.shapes.clips import USUAL_MOTION, render_clip, sample_clip
from mmalign.shapes.judge_answers import judge_caption
from mmalign.shapes.sight_pairs import Origin, SightPair
from mmalign.shapes.sight_text import Question, Topic, ask, caption_of, named_things
from mmalign.shapes.sights import Split, Thing, companion_of, render_sight, sample_sight
from mmalign.shapes.vlm_answers import answer_clips, answer_pictures
from mmalign.types import UserError

SEED = 1000
"""Seed of the scenes of pairs; the models were trained on scenes of other seeds."""
SAMPLES, CHUNK = 4, 64
"""Answers sampled per question, and questions asked at once."""

Asked = tuple[int, tuple[Thing, ...], Question]
"""The number of a scene, its things, and a question about it."""
Answers = Callable[[Sequence[Asked], int], list[str]]
"""One sampled answer per question, from a seed."""


@dataclass(frozen=True)
class Counts:
    """How many pairs of each topic the training stream and each of the other two get."""

    training: dict[Topic, int]
    others: dict[Topic, int]


CAPTION_COUNTS = Counts({"caption": 360, "presence": 120}, {"caption": 64, "presence": 32})
CLIP_COUNTS = Counts({"motion": 360, "order": 120}, {"motion": 64, "order": 32})


def caption_pairs(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, counts: Counts = CAPTION_COUNTS
) -> list[SightPair]:
    """Pairs about pictures for all three streams: captions, and questions on what is there."""

    def asked(split: Split, topic: Topic, number: int) -> Asked | None:
        sight = sample_sight(split, SEED, number)
        question = ask(sight, topic, random.Random(f"pairs/{split}/{topic}/{number}"))
        return None if question is None else (number, sight.things, question)

    def answers(split: Split) -> Answers:
        def sampled(listed: Sequence[Asked], seed: int) -> list[str]:
            pictures = [render_sight(sample_sight(split, SEED, number)) for number, _, _ in listed]
            return answer_pictures(model, processor, pictures, [q.text for _, _, q in listed], seed)

        return sampled

    return _all_streams("sight", counts, asked, answers)


def clip_pairs(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, counts: Counts = CLIP_COUNTS
) -> list[SightPair]:
    """Pairs about clips for all three streams: questions on motion, and on what comes first."""

    def asked(split: Split, topic: Topic, number: int) -> Asked | None:
        clip = sample_clip(split, SEED, number)
        question = ask_clip(clip, topic, random.Random(f"pairs/{split}/{topic}/{number}"))
        return None if question is None else (number, clip.things, question)

    def answers(split: Split) -> Answers:
        def sampled(listed: Sequence[Asked], seed: int) -> list[str]:
            clips = [render_clip(sample_clip(split, SEED, number)) for number, _, _ in listed]
            return answer_clips(model, processor, clips, [q.text for _, _, q in listed], seed)

        return sampled

    return _all_streams("clip", counts, asked, answers)


def _all_streams(
    name: str,
    counts: Counts,
    asked: Callable[[Split, Topic, int], Asked | None],
    answers: Callable[[Split], Answers],
) -> list[SightPair]:
    pairs: list[SightPair] = []
    for split in ("training", "validation", "heldout"):
        wanted = counts.training if split == "training" else counts.others
        topics = [
            list(_drawn(name, split, topic, num, asked, answers(split))) for topic, num in wanted.items()
        ]
        pairs += _mixed(topics, split)
    return pairs


def _drawn(
    name: str,
    split: Split,
    topic: Topic,
    num: int,
    asked: Callable[[Split, Topic, int], Asked | None],
    answers: Answers,
) -> Iterator[SightPair]:
    """`num` pairs of one topic, from as many scenes as it takes; UserError if the model hardly ever errs."""
    number, room = 0, _room(split, topic, num)
    while any(room.values()):
        listed: list[Asked] = []
        while len(listed) < min(CHUNK, 2 * num + 4):
            found = asked(split, topic, number)
            number += 1
            listed += [] if found is None else [found]
        if number > 60 * num + 600:
            raise UserError(
                f"{topic} pairs of {split}: {sum(room.values())} of {num} are missing after {number} scenes; "
                "the model hardly ever errs"
            )
        samples = [answers(listed, SEED + 97 * number + draw) for draw in range(SAMPLES)]
        for place, one in enumerate(listed):
            pair = _pair(f"{name}-{split}-{topic}", split, one, [drawn[place] for drawn in samples])
            side = one[2].answer if one[2].answer in room else ""
            if pair is not None and room[side] > 0:
                room[side] -= 1
                yield pair


def _room(split: Split, topic: Topic, num: int) -> dict[str, int]:
    """How many pairs are wanted by right answer; "" stands for all others.

    Errors about presence are mostly a false yes. As many pairs in which yes is right keep the model from
    learning to deny everything.
    """
    if split == "training" and topic == "presence":
        return {"yes": num // 2, "no": num - num // 2, "": 0}
    return {"": num}


def _pair(name: str, split: Split, asked: Asked, samples: Sequence[str]) -> SightPair | None:
    """The pair of one question, or None where the training stream leaves it out."""
    number, things, question = asked
    right: tuple[str, Origin] = (question.answer, "sample" if question.answer in samples else "truth")
    wrong = [text for text in samples if text != question.answer]
    if question.topic == "caption":
        wrong = [text for text in samples if named_things(text) - set(things)]
        clean = [text for text in samples if text not in wrong and named_things(text)]
        if clean:
            right = max(clean, key=lambda text: judge_caption(things, text)["score"]), "sample"
    if split == "training" and not wrong and (question.topic, question.answer) != ("presence", "yes"):
        return None
    rng = random.Random(f"wrong/{name}/{number}")
    rejected: tuple[str, Origin] = (
        (wrong[0], "sample") if wrong else (_plausible(things, question, rng), "made")
    )
    identity = f"{name}-{number}"
    return SightPair(
        identity, split, SEED, number, question.text, right[0], rejected[0], right[1], rejected[1]
    )


def _plausible(things: Sequence[Thing], question: Question, rng: random.Random) -> str:
    """A wrong answer of the kind that habit gives."""
    if question.topic == "caption":
        place = rng.randrange(len(things))
        return caption_of([*things[: place + 1], companion_of(things[place]), *things[place + 1 :]])
    if question.topic == "presence":
        return "no" if question.answer == "yes" else "yes"
    if question.topic == "order":
        return next(f"the {thing.name}" for thing in question.things if thing.name not in question.answer)
    usual = MOTION_ANSWERS[USUAL_MOTION[question.things[0].kind]]
    others = [said for said in MOTION_ANSWERS.values() if said != question.answer]
    return usual if usual != question.answer else rng.choice(others)


def _mixed(topics: Sequence[Sequence[SightPair]], split: Split) -> list[SightPair]:
    """The topics in turn, in proportion to their numbers, so that the first rows hold all of them."""
    placed = [
        ((index + 0.5) / len(pairs), order, pair)
        for order, pairs in enumerate(topics)
        for index, pair in enumerate(pairs)
    ]
    return [pair for _, _, pair in sorted(placed, key=lambda entry: entry[:2])]
