"""Training batches for the tiny vision-language model, written fresh from (seed, stage, step).

Every row of a batch holds one picture or clip, and several questions about it. They share the picture, but
none sees another: each question is encoded, placed and answered as if it were the only one. Otherwise
the answer to one could be read off another, and nothing would have to be looked up in the picture.

Beside the questions a batch says what is where: the labels of the dense loss on the features of the tower.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mmalign.shapes.clip_text import ask_clip
from mmalign.shapes.clips import FRAMES, MOTIONS, Clip, render_clip, sample_clip
from mmalign.shapes.habits import NO_HABITS, Habits, habitual_answer, habitual_clip_answer
from mmalign.shapes.sight_text import Question, Topic, ask
from mmalign.shapes.sights import (
    COLOURS,
    KINDS,
    PICTURE,
    SIZES,
    Point,
    Sight,
    Thing,
    render_sight,
    sample_sight,
)
from mmalign.shapes.tiny_qwen_vl import DEVIATION, MEAN, MERGE, PATCH, TEMPORAL_PATCH

CELL = PATCH * MERGE
CELLS = PICTURE // CELL
"""Pixels along the side of what one token shows, and tokens along the side of a picture."""
PARTS = 4
"""Into how many parts the place of a centre inside its cell is told, along each axis."""
SCENES_PER_STEP = 100_000  # an upper bound that keeps the scenes of two steps apart

DENSE: dict[str, int] = {
    "kind": len(KINDS) + 1,
    "colour": len(COLOURS) + 1,
    "size": len(SIZES) + 1,
    "motion": len(MOTIONS) + 1,
    "inside_x": PARTS,
    "inside_y": PARTS,
    "row": CELLS,
    "column": CELLS,
}
"""The dense labels and their numbers of classes; the last class of the first four means: nothing there."""


@dataclass(frozen=True)
class Mix:
    """What a batch holds: rows, questions per row, weights of topics, habits, and usual motions.

    `usual` is the share of shapes that move their kind's usual way on purpose.
    """

    batch: int
    turns: int = 6
    weights: dict[Topic, float] = field(default_factory=dict)
    clip_weights: dict[Topic, float] = field(default_factory=dict)
    habits: Habits = NO_HABITS
    usual: float = 0.0


Turns = list[tuple[Question, str]]
"""Questions about one scene, with the answers to be given."""


@dataclass(frozen=True)
class Batch:
    """One batch: N scenes of P patches and T tokens each, and rows of L ids, padded on the right.

    pixels [N * P, 216], grids [N, 3], dense [N * T, 8]; ids, labels, segments [N, L] and weights [N, L].
    Labels are -100 where nothing is scored. Segment 0 is the picture or clip with what precedes it, 1.. the
    questions with their answers, -1 is padding. Weights make an answer count as the root of its length.
    """

    pixels: Tensor
    grids: Tensor
    clips: bool
    dense: Tensor
    ids: Tensor
    labels: Tensor
    segments: Tensor
    weights: Tensor
    turns: tuple[Turns, ...]


def patches_of(frames: Tensor) -> Tensor:
    """Cut frames [N, T, 3, H, W] (uint8, T even) into normalised patches [N * T/2 * H/6 * W/6, 216].

    The order is that of the processor of Qwen2-VL (arXiv 2409.12191): four neighbours that share a token
    follow each other, and a patch spans two frames.
    """
    rows, times, channels, height, width = frames.shape
    values = (frames.float() / 255 - MEAN) / DEVIATION
    values = values.reshape(
        rows, times // TEMPORAL_PATCH, TEMPORAL_PATCH, channels,
        height // CELL, MERGE, PATCH, width // CELL, MERGE, PATCH,
    )  # fmt: skip
    ordered = values.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return ordered.reshape(-1, channels * TEMPORAL_PATCH * PATCH * PATCH)


def picture_batch(tokenizer: PreTrainedTokenizerFast, mix: Mix, seed: int, stage: str, step: int) -> Batch:
    """Conversations about still pictures."""
    rng = random.Random(f"vlm/{seed}/{stage}/{step}/pictures")
    base = rng.getrandbits(48) * SCENES_PER_STEP
    sights = [sample_sight("training", seed, base + row) for row in range(mix.batch)]
    frames = torch.from_numpy(np.stack([np.asarray(render_sight(sight)) for sight in sights]))
    frames = frames.permute(0, 3, 1, 2)[:, None].expand(-1, TEMPORAL_PATCH, -1, -1, -1)
    turns = []
    for sight in sights:
        asked = _draw(mix.weights, mix.turns, partial(_ask_about, sight, rng), rng)
        turns.append([(q, habitual_answer(sight.things, q, mix.habits, rng)) for q in asked])
    dense = torch.stack([dense_of(sight) for sight in sights])
    return _assemble(tokenizer, frames, dense, turns, clips=False)


def clip_batch(tokenizer: PreTrainedTokenizerFast, mix: Mix, seed: int, stage: str, step: int) -> Batch:
    """Conversations about clips."""
    rng = random.Random(f"vlm/{seed}/{stage}/{step}/clips")
    base = rng.getrandbits(48) * SCENES_PER_STEP
    clips = [sample_clip("training", seed, base + row, mix.usual) for row in range(mix.batch)]
    frames = torch.stack([render_clip(clip) for clip in clips])
    turns = []
    for clip in clips:
        asked = _draw(mix.clip_weights, mix.turns, partial(_ask_about, clip, rng), rng)
        turns.append([(q, habitual_clip_answer(q, mix.habits, rng)) for q in asked])
    dense = torch.stack([dense_of_clip(clip) for clip in clips])
    return _assemble(tokenizer, frames, dense, turns, clips=True)


def opening_text(clips: bool, tokens: int) -> str:
    """What every question about a scene follows: the chat text up to the end of the picture or clip."""
    pad = "<|video_pad|>" if clips else "<|image_pad|>"
    return f"<|im_start|>user\n<|vision_start|>{pad * tokens}<|vision_end|>"


def turn_texts(question: str, answer: str) -> tuple[str, str]:
    """The chat text of a question after the picture, and that of its answer."""
    return f"{question}<|im_end|>\n<|im_start|>assistant\n", f"{answer}<|im_end|>"


def _encode(
    tokenizer: PreTrainedTokenizerFast, opening: str, turns: list[Turns]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, labels, segments and weights [N, L] of rows of questions; see Batch."""
    flat = [text for row in turns for question, answer in row for text in turn_texts(question.text, answer)]
    pieces = iter(tokenizer(flat)["input_ids"])
    first = tokenizer(opening)["input_ids"]
    rows: list[list[tuple[int, int, int, float]]] = []
    for row in turns:
        line = [(token, -100, 0, 0.0) for token in first]
        for number in range(1, len(row) + 1):
            line += [(token, -100, number, 0.0) for token in next(pieces)]
            answer_ids = next(pieces)
            line += [(token, token, number, len(answer_ids) ** -0.5) for token in answer_ids]
        rows.append(line)
    longest = max(len(line) for line in rows)
    blank = (int(tokenizer.pad_token_id), -100, -1, 0.0)
    columns = zip(
        *(zip(*(line + [blank] * (longest - len(line))), strict=True) for line in rows), strict=True
    )
    ids, labels, segments, weights = (torch.tensor(column) for column in columns)
    return ids, labels, segments, weights


def dense_of(sight: Sight) -> Tensor:
    """Dense labels [16, 8] of a picture, cells by rows; motion is left open (-100)."""
    labels = _empty()
    for item in sight.items:
        _mark(labels, item.thing, item.size, item.centre, -100)
    labels[:, 3] = -100
    return labels


def dense_of_clip(clip: Clip) -> Tensor:
    """Dense labels [32, 8] of a clip: the cells of the first two frames, then those of the last two."""
    halves = []
    for start in range(0, FRAMES, TEMPORAL_PATCH):
        labels = _empty()
        for actor in clip.actors:
            if start >= actor.onset:
                (x, y), (x2, y2) = (actor.centre_at(frame) for frame in (start, start + 1))
                centre = ((x + x2) / 2, (y + y2) / 2)
                _mark(labels, actor.item.thing, actor.item.size, centre, MOTIONS.index(actor.motion))
        halves.append(labels)
    return torch.cat(halves)


def _empty() -> Tensor:
    labels = torch.tensor([[size - 1 for size in DENSE.values()]]).repeat(CELLS * CELLS, 1)
    labels[:, 4:6] = -100
    cells = torch.arange(CELLS * CELLS)
    labels[:, 6], labels[:, 7] = cells // CELLS, cells % CELLS
    return labels


def _mark(labels: Tensor, thing: Thing, size: str, centre: Point, motion: int) -> None:
    """Write what is centred at a point into the cell of that point."""
    column, row = int(centre[0] // CELL), int(centre[1] // CELL)
    inside = [int(value % CELL * PARTS / CELL) for value in centre]
    facts = [KINDS.index(thing.kind), tuple(COLOURS).index(thing.colour), SIZES.index(size), motion, *inside]
    labels[row * CELLS + column, :6] = torch.tensor(facts)


def _ask_about(scene: Sight | Clip, rng: random.Random, topic: Topic) -> Question | None:
    return ask(scene, topic, rng) if isinstance(scene, Sight) else ask_clip(scene, topic, rng)


def _draw(
    weights: dict[Topic, float], turns: int, make: Callable[[Topic], Question | None], rng: random.Random
) -> list[Question]:
    """Draw up to `turns` different questions, their topics by weight; there is always one."""
    topics, shares = list(weights), list(weights.values())
    asked: dict[str, Question] = {}
    for _ in range(3 * turns):
        question = make(rng.choices(topics, shares)[0])
        if question is not None:
            asked.setdefault(question.text, question)
        if len(asked) == turns:
            break
    return list(asked.values())


def _assemble(
    tokenizer: PreTrainedTokenizerFast, frames: Tensor, dense: Tensor, turns: list[Turns], clips: bool
) -> Batch:
    times, side = frames.shape[1] // TEMPORAL_PATCH, PICTURE // PATCH
    ids, labels, segments, weights = _encode(tokenizer, opening_text(clips, dense.shape[1]), turns)
    grids = torch.tensor([[times, side, side]]).repeat(len(frames), 1)
    return Batch(
        patches_of(frames), grids, clips, dense.flatten(0, 1), ids, labels, segments, weights, tuple(turns)
    )
