"""A base that reads several pictures, trained on from the built-in model, which has only ever seen one.

Its prompts are those of MIA-DPO's sequences: "Image1:", a picture, "Image2:", another, and a question that
begins with "In Image2,". That a question's number points to a picture is learned late. It helps to ask first
which picture shows a thing, so that a picture's places learn its number, and then to ask about pictures of a
single thing.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mmalign.builders import _collages as collages
from mmalign.shapes.habits import PICTURE_HABITS, habitual_answer
from mmalign.shapes.pretrain_state import learning_rate
from mmalign.shapes.pretrain_vlm import STAGES
from mmalign.shapes.sight_text import Question, Topic, ask
from mmalign.shapes.sights import PICTURE, Sight, render_sight, sample_sight
from mmalign.shapes.tiny_qwen_vl import PATCH, TEMPORAL_PATCH, load_vlm
from mmalign.shapes.vlm_batch import Batch, Turns, _draw, _encode, dense_of, patches_of, picture_batch
from mmalign.shapes.vlm_learner import Learner, each_anew
from mmalign.types import Message, Part

SEED = 4000
"""Seed of these scenes; no other pictures have it."""
ROWS, TURNS, WARMUP = 8, 6, 50


@dataclass(frozen=True)
class Lesson:
    """Some steps at a peak rate. `which`: share of questions which picture shows a thing. `dense`: weight of
    the dense loss. `first`: number of the first scene. `pictures` of a row and `things` of a scene at most,
    by step; a step with one picture is of the conversations `alone`."""

    name: str
    steps: int
    rate: float
    which: float
    dense: float
    first: int
    topics: dict[Topic, float]
    pictures: Callable[[int], int]
    things: Callable[[int], int]
    alone: str = ""


_MOSTLY_CAPTIONS: dict[Topic, float] = {"caption": 3.0, "presence": 1.5, "colour": 1.0, "shape": 1.0}
LESSONS = (
    Lesson(
        "several base/", 1600, 1.5e-3, 0.35, 0.1, 0, {**_MOSTLY_CAPTIONS, "colour": 1.5},
        lambda step: 1 if step % 8 == 7 else 2 if step < 960 or step % 2 else 3, lambda step: 4, "several",
    ),
    Lesson(
        "x", 1000, 1.0e-3, 0.15, 0.0, 10_000_000, _MOSTLY_CAPTIONS,
        lambda step: 2, lambda step: 1 if step < 500 else 2 if step < 750 else 4,
    ),
    Lesson(
        "x", 600, 1.2e-3, 0.15, 0.0, 20_000_000, _MOSTLY_CAPTIONS,
        lambda step: 1 if step % 8 == 7 else 2 + (step % 4 == 2),
        lambda step: 2 if step < 150 else 4, "again",
    ),
)  # fmt: skip


class SeveralLearner(Learner):
    """The learner for rows of several pictures, as many in each."""

    pictures = 1

    def positions(self, batch: Batch) -> Tensor:
        """Positions [3, N, L]: those of the opening, shared by all rows; then each question starts anew."""
        size = int((batch.segments[0] == 0).sum())
        opening = batch.ids[:1, : size + 1]
        types = (opening == self.vlm.config.image_token_id).int()
        first, _ = self.vlm.model.get_rope_index(opening, types, image_grid_thw=batch.grids[: self.pictures])
        return each_anew(batch, first, size)


def several_batch(tokenizer: PreTrainedTokenizerFast, lesson: Lesson, step: int) -> Batch:
    """Rows of several pictures with questions on any of them; half of the things that presence questions ask
    for in vain are in another picture."""
    rng = random.Random(f"{lesson.name}{step}")
    number = lesson.first + step * 1000
    turns: list[Turns] = []
    shown: list[list[Sight]] = []
    for _ in range(ROWS):
        sights: list[Sight] = []
        while len(sights) < lesson.pictures(step):
            sight = sample_sight("training", SEED, number)
            number += 1
            if len(sight.items) <= lesson.things(step):
                sights.append(sight)
        shown.append(sights)
        turns.append([turn_on(sights, lesson, rng) for _ in range(TURNS)])
    return batch_of(tokenizer, shown, turns)


def batch_of(
    tokenizer: PreTrainedTokenizerFast, shown: Sequence[Sequence[Sight]], turns: list[Turns]
) -> Batch:
    """Rows of as many pictures each, with the questions on them."""
    flat = [sight for sights in shown for sight in sights]
    frames = torch.from_numpy(np.stack([np.asarray(render_sight(sight)) for sight in flat]))
    frames = frames.permute(0, 3, 1, 2)[:, None].expand(-1, TEMPORAL_PATCH, -1, -1, -1)
    dense = torch.stack([dense_of(sight) for sight in flat])
    pads = "<|image_pad|>" * dense.shape[1]
    listed = [f"Image{i + 1}:<|vision_start|>{pads}<|vision_end|>\n" for i in range(len(shown[0]))]
    ids, labels, segments, weights = _encode(tokenizer, "<|im_start|>user\n" + "".join(listed), turns)
    side = PICTURE // PATCH
    grids = torch.tensor([[1, side, side]]).repeat(len(frames), 1)
    return Batch(
        patches_of(frames), grids, False, dense.flatten(0, 1), ids, labels, segments, weights, tuple(turns)
    )


def prompt_of(sights: Sequence[Sight], question: str) -> tuple[Message, ...]:
    """The same as a prompt of the adapter's."""
    parts = collages.shown("sequence", [render_sight(sight) for sight in sights])
    return (Message("user", (*parts[:-1], Part("text", f"\n{question}"))),)


def turn_on(sights: list[Sight], lesson: Lesson, rng: random.Random) -> tuple[Question, str]:
    """A question on one of several pictures, with its answer."""
    target = rng.randrange(len(sights))
    own = sights[target]
    alone = [t for t in own.things if all(t not in s.things for s in sights if s is not own)]
    if alone and rng.random() < lesson.which:
        thing = rng.choice(alone)
        question = Question("presence", f"Which image shows {thing.phrase}?", f"Image{target + 1}", (thing,))
        return question, question.answer
    while not (drawn := _draw(lesson.topics, 1, partial(_ask, own, rng), rng)):
        pass
    (question,) = drawn
    if question.answer == "no" and rng.random() < 0.5:
        others = [t for sight in sights for t in sight.things if t not in own.things]
        if others:
            thing = rng.choice(others)
            question = Question("presence", f"Is there {thing.phrase}?", "no", (thing,), "random")
    answer = habitual_answer(own.things, question, PICTURE_HABITS, rng)
    return replace(question, text=collages.asked(question.text, f"In Image{target + 1}")), answer


def _ask(sight: Sight, rng: random.Random, topic: Topic) -> Question | None:
    return ask(sight, topic, rng)


def teach(folder: Path) -> None:
    """Train all weights of the built-in model and write it to a folder: about 20 minutes."""
    model, processor = load_vlm()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = SeveralLearner(model.train())
    for number, lesson in enumerate(LESSONS, 1):
        optimizer = torch.optim.AdamW(
            learner.parameters(), lr=lesson.rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        lost = 0.0
        for step in range(lesson.steps):
            lost += _step(learner, optimizer, processor.tokenizer, lesson, step)
            if step % 100 == 99:
                print(
                    f"lesson {number}, step {step + 1} of {lesson.steps}, loss {lost / 100:.3f}", flush=True
                )
                lost = 0.0
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)


def _step(
    learner: SeveralLearner,
    optimizer: torch.optim.Optimizer,
    tokenizer: PreTrainedTokenizerFast,
    lesson: Lesson,
    step: int,
) -> float:
    learner.pictures = lesson.pictures(step)
    batch = (
        picture_batch(tokenizer, STAGES["vlm"].mix, SEED, lesson.alone, step)
        if learner.pictures == 1
        else several_batch(tokenizer, lesson, step)
    )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, lesson.steps, lesson.rate, WARMUP)
    optimizer.zero_grad()
    losses = learner.losses(batch)
    (losses.answers + lesson.dense * losses.dense if lesson.dense else losses.answers).backward()
    torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    optimizer.step()
    return float(losses.answers.detach())
