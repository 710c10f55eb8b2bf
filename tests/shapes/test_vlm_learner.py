"""Questions packed into one row equal the library's own path from picture to logits, one by one."""

import random
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor

from mmalign.shapes.clips import MOTIONS, render_clip, sample_clip
from mmalign.shapes.habits import Habits
from mmalign.shapes.pretrain_vlm import CLIP_WEIGHTS, PICTURE_WEIGHTS, export, new_learner
from mmalign.shapes.sight_text import parse_caption
from mmalign.shapes.sights import COLOURS, KINDS, SIZES, render_sight, sample_sight
from mmalign.shapes.tiny_qwen_vl import build_processor, build_tokenizer, load_vlm
from mmalign.shapes.vlm_answers import metadata_of
from mmalign.shapes.vlm_batch import (
    CELL,
    CELLS,
    DENSE,
    Batch,
    Mix,
    clip_batch,
    dense_of,
    dense_of_clip,
    picture_batch,
)
from mmalign.shapes.vlm_learner import Learner

MIX = Mix(2, 5, PICTURE_WEIGHTS, CLIP_WEIGHTS)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Training it takes seconds: no work of a process that only lists the tests."""
    return build_tokenizer()


@cache
def processor() -> Qwen2_5_VLProcessor:
    return build_processor(tokenizer())


@cache
def learner() -> Learner:
    """No test changes it."""
    return new_learner().eval()


def batch_of(clips: bool) -> Batch:
    return (clip_batch if clips else picture_batch)(tokenizer(), MIX, 0, "test", 0)


def scenes_of(clips: bool) -> list:
    """The scenes behind `batch_of`, drawn again."""
    rng = random.Random(f"vlm/0/test/0/{'clips' if clips else 'pictures'}")
    base = rng.getrandbits(48) * 100_000
    sample = sample_clip if clips else sample_sight
    return [sample("training", 0, base + row) for row in range(2)]


def through_the_processor(scene: object, question: str, answer: str, clips: bool) -> dict[str, Tensor]:
    """Inputs of the model for one question with its answer, made by the library."""
    content = [{"type": "video" if clips else "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    text = processor().apply_chat_template([messages], tokenize=False)
    if clips:
        frames = render_clip(scene)
        made = processor()(
            text=text, videos=[[frames]], video_metadata=[[metadata_of(frames)]], return_tensors="pt"
        )
    else:
        made = processor()(text=text, images=[[render_sight(scene)]], return_tensors="pt")
    return dict(made)


@pytest.mark.parametrize("clips", [False, True])
@torch.no_grad()
def test_packed_questions_equal_single_ones_through_the_processor(clips: bool) -> None:
    batch, scenes = batch_of(clips), scenes_of(clips)
    logits = learner().vlm.lm_head(learner().hidden(learner().features(batch), batch))
    count = len(batch.pixels) // 2
    for row, scene in enumerate(scenes):
        assert len(batch.turns[row]) > 2
        for number, (question, answer) in enumerate(batch.turns[row], 1):
            inputs = through_the_processor(scene, question.text, answer, clips)
            pixels = inputs["pixel_values_videos" if clips else "pixel_values"]
            assert torch.allclose(pixels, batch.pixels[row * count : (row + 1) * count], atol=1e-6)
            mine = (batch.segments[row] == 0) | (batch.segments[row] == number)
            ids = inputs["input_ids"][0, :-1]  # the template ends with a line break, which is not trained
            assert ids.tolist() == batch.ids[row, mine].tolist()
            alone = learner().vlm(**inputs).logits[0, :-1]
            assert torch.allclose(alone, logits[row, mine], atol=2e-5)
            scored = batch.labels[row][batch.segments[row] == number]
            assert tokenizer().decode(scored[scored != -100]) == f"{answer}<|im_end|>"
    if clips:
        assert inputs["second_per_grid_ts"].tolist() == [0.5] and inputs["video_grid_thw"].tolist() == [
            [2, 8, 8]
        ]


def test_another_picture_changes_the_logits() -> None:
    batch = batch_of(False)
    with torch.no_grad():
        features = learner().features(batch)
        straight, other = learner().hidden(features, batch), learner().hidden(features.roll(16, 0), batch)
    last = batch.segments > 0
    assert (straight - other)[last].abs().max() > 1e-3


def test_batches_depend_on_seed_stage_and_step_alone() -> None:
    first, again = batch_of(False), batch_of(False)
    assert torch.equal(first.ids, again.ids) and torch.equal(first.pixels, again.pixels)
    for seed, stage, step in ((1, "test", 0), (0, "other", 0), (0, "test", 1)):
        other = picture_batch(tokenizer(), MIX, seed, stage, step)
        assert not torch.equal(first.pixels, other.pixels)


def test_habits_reach_the_batch() -> None:
    always = Habits(caption=dict.fromkeys(KINDS, 1.0), motion=dict.fromkeys(KINDS, 1.0))
    mix = Mix(8, 2, {"caption": 1.0}, {"motion": 1.0}, habits=always)
    for turns in picture_batch(tokenizer(), mix, 0, "test", 0).turns:
        question, said = turns[0]
        assert set(parse_caption(said)) >= set(question.things)
        assert len(parse_caption(said)) > 1
    answers = {turns[0][1] for turns in clip_batch(tokenizer(), mix, 0, "test", 0).turns}
    assert answers <= {"right", "left", "up", "down"}


def test_dense_labels_tell_what_is_centred_in_which_cell() -> None:
    sight = sample_sight("training", 0, 4)
    labels = dense_of(sight)
    assert labels.shape == (CELLS * CELLS, len(DENSE))
    for item in sight.items:
        column, row = (int(value // CELL) for value in item.centre)
        thing = item.thing
        facts = [KINDS.index(thing.kind), list(COLOURS).index(thing.colour), SIZES.index(item.size), -100]
        assert labels[row * CELLS + column, :4].tolist() == facts
        assert labels[row * CELLS + column, 6:].tolist() == [row, column]
    assert (labels[:, 0] != len(KINDS)).sum() == len(sight.items)


def test_dense_labels_of_a_clip_follow_the_motion() -> None:
    clip = next(c for n in range(99) if len((c := sample_clip("training", 0, n)).actors) == 1)
    actor = clip.actors[0]
    labels = dense_of_clip(clip)
    for half in range(2):
        middle = [
            (a + b) / 2 for a, b in zip(actor.centre_at(2 * half), actor.centre_at(2 * half + 1), strict=True)
        ]
        cell = half * CELLS * CELLS + int(middle[1] // CELL) * CELLS + int(middle[0] // CELL)
        assert labels[cell, 3] == MOTIONS.index(actor.motion)


def test_losses_count_right_answers_by_topic() -> None:
    with torch.no_grad():
        losses = learner().losses(batch_of(False))
    assert torch.isfinite(losses.answers) and torch.isfinite(losses.dense)
    given = sum(all_ for name, (_, all_) in losses.right.items() if not name.startswith("cell_"))
    assert given == sum(len(turns) for turns in batch_of(False).turns)
    assert all(good <= all_ for good, all_ in losses.right.values())


def test_an_exported_model_is_read_by_the_public_loaders(tmp_path: Path) -> None:
    export(learner(), tmp_path)
    model, read = load_vlm(tmp_path)
    scene = scenes_of(False)[0]
    inputs = through_the_processor(scene, "Describe the picture.", "a red circle", False)
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, learner().vlm(**inputs).logits, atol=0.02)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 1_700_000
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Is there a red circle?<|im_end|>\n"
    assert read.tokenizer(text)["input_ids"] == tokenizer()(text)["input_ids"]
