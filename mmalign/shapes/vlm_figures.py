"""Measure a tiny vision-language model on fresh scenes: what it says against what is there."""

import random
from collections.abc import Iterable, Sequence

from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from mmalign.shapes.clip_text import CLIP_TOPICS, MOTION_ANSWERS, ask_clip, motion_question
from mmalign.shapes.clips import FRAMES, USUAL_MOTION, Clip, render_clip, sample_clip
from mmalign.shapes.sight_text import (
    DESCRIBE_PICTURE,
    PROBES,
    TOPICS,
    Probe,
    Question,
    Topic,
    ask,
    ask_presence,
    caption_of,
    named_things,
)
from mmalign.shapes.sights import PICTURE, Sight, Split, companion_of, render_sight, sample_sight
from mmalign.shapes.vlm_answers import answer_clips, answer_pictures

Figures = dict[str, float]
SHUFFLED_TOPICS: tuple[Topic, ...] = ("motion", "order", "count")


def picture_figures(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    split: Split,
    num: int = 150,
    seed: int = 1,
    blank: bool = False,
) -> Figures:
    """Figures of greedy answers on `num` scenes per topic of a stream; `blank` empties all pictures."""
    figures = caption_figures(model, processor, split, 2 * num, seed, blank)
    for topic in TOPICS[1:]:
        figures[topic] = picture_share(model, processor, split, topic, num, seed, blank)
    for probe in PROBES[1:]:
        figures[f"yes to {probe}"] = false_yes(model, processor, split, probe, num, seed, blank)
    return figures


def picture_share(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    split: Split,
    topic: Topic,
    num: int,
    seed: int,
    blank: bool = False,
) -> float:
    """The share of `num` questions of one topic that are answered exactly."""
    scenes, asked = _ask_pictures(split, topic, num, seed)
    answers = answer_pictures(model, processor, _drawn(scenes, blank), [q.text for q in asked])
    return _share(a == q.answer for a, q in zip(answers, asked, strict=True))


def caption_figures(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    split: Split,
    num: int,
    seed: int,
    blank: bool = False,
) -> Figures:
    """Shares over `num` greedy captions: exact ones, recall of things, captions that name absent things."""
    scenes = [sample_sight(split, seed, number) for number in range(num)]
    captions = answer_pictures(model, processor, _drawn(scenes, blank), [DESCRIBE_PICTURE] * num)
    recalls, faults, companions, exact = [], [], [], []
    for scene, caption in zip(scenes, captions, strict=True):
        named, there = named_things(caption), set(scene.things)
        recalls.append(len(named & there) / len(there))
        faults.append(bool(named - there))
        companions.append(bool((named - there) & {companion_of(thing) for thing in there}))
        exact.append(caption == caption_of(scene.things))
    bad = sum(faults)
    return {
        "captions": num,
        "hallucinate": bad / num,
        "of these companion": sum(companions) / bad if bad else 0.0,
        "recall": sum(recalls) / num,
        "exact": sum(exact) / num,
    }


def false_yes(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    split: Split,
    probe: Probe,
    num: int,
    seed: int,
    blank: bool = False,
) -> float:
    """The share of presence questions about absent things of one sort that are answered with yes."""
    rng = random.Random(f"figures/{split}/{seed}/{probe}")
    scenes: list[Sight] = []
    texts: list[str] = []
    number = 0
    while len(scenes) < num:
        scene = sample_sight(split, seed + 1, number)
        number += 1
        question = ask_presence(scene.things, probe, rng)
        if question is not None:
            scenes.append(scene)
            texts.append(question.text)
    answers = answer_pictures(model, processor, _drawn(scenes, blank), texts)
    return _share(answer == "yes" for answer in answers)


def clip_figures(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    split: Split,
    num: int = 150,
    seed: int = 1,
) -> Figures:
    """Figures of greedy answers on `num` clips per topic of a stream, some also with shuffled frames."""
    figures: Figures = {}
    for topic in CLIP_TOPICS:
        figures[topic] = clip_share(model, processor, split, topic, num, seed)
        if topic in SHUFFLED_TOPICS:
            figures[f"{topic}, shuffled"] = clip_share(
                model, processor, split, topic, num, seed, shuffled=True
            )
    figures["usual when false"] = usual_when_false(model, processor, split, 2 * num, seed)
    return figures


def clip_share(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    split: Split,
    topic: Topic,
    num: int,
    seed: int,
    shuffled: bool = False,
) -> float:
    """The share of `num` questions of one topic about clips that are answered exactly."""
    clips, asked = _ask_clips(split, topic, num, seed)
    frames = [render_clip(clip) for clip in clips]
    if shuffled:
        rng = random.Random(f"shuffle/{split}/{seed}/{topic}")
        frames = [clip[_other_order(rng)] for clip in frames]
    answers = answer_clips(model, processor, frames, [q.text for q in asked])
    return _share(a == q.answer for a, q in zip(answers, asked, strict=True))


def usual_when_false(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    split: Split,
    num: int,
    seed: int,
) -> float:
    """How often a shape that does not move its kind's usual way is said to do so."""
    actors = []
    for number in range(num):
        clip = sample_clip(split, seed + 1, number)
        unusual = [a for a in clip.actors if a.motion != USUAL_MOTION[a.item.thing.kind]]
        actors += [(clip, actor) for actor in unusual[:1]]
    asked = [motion_question(actor) for _, actor in actors]
    frames = [render_clip(clip) for clip, _ in actors]
    answers = answer_clips(model, processor, frames, [q.text for q in asked])
    usual = [MOTION_ANSWERS[USUAL_MOTION[actor.item.thing.kind]] for _, actor in actors]
    return _share(answer == said for answer, said in zip(answers, usual, strict=True))


def _ask_pictures(split: Split, topic: Topic, num: int, seed: int) -> tuple[list[Sight], list[Question]]:
    """`num` scenes with a question of one topic each."""
    rng, number = random.Random(f"figures/{split}/{seed}/{topic}"), 0
    scenes: list[Sight] = []
    asked: list[Question] = []
    while len(scenes) < num:
        scene = sample_sight(split, seed, number)
        number += 1
        question = ask(scene, topic, rng)
        if question is not None:
            scenes.append(scene)
            asked.append(question)
    return scenes, asked


def _ask_clips(split: Split, topic: Topic, num: int, seed: int) -> tuple[list[Clip], list[Question]]:
    """`num` clips with a question of one topic each."""
    rng, number = random.Random(f"figures/clips/{split}/{seed}/{topic}"), 0
    clips: list[Clip] = []
    asked: list[Question] = []
    while len(clips) < num:
        clip = sample_clip(split, seed, number)
        number += 1
        question = ask_clip(clip, topic, rng)
        if question is not None:
            clips.append(clip)
            asked.append(question)
    return clips, asked


def _drawn(scenes: Sequence[Sight], blank: bool) -> list[Image.Image]:
    if blank:
        return [Image.new("RGB", (PICTURE, PICTURE), scene.ground) for scene in scenes]
    return [render_sight(scene) for scene in scenes]


def _other_order(rng: random.Random) -> list[int]:
    """The frames in an order that is not their own."""
    order = list(range(FRAMES))
    while order == sorted(order):
        rng.shuffle(order)
    return order


def _share(hits: Iterable[bool]) -> float:
    values = list(hits)
    return sum(values) / len(values)
