"""Pairs about pictures and clips as sources: drawn from the line that names the scene, refused if broken."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

from mmalign.clips import Clip
from mmalign.data._sources import load
from mmalign.judging import Judge
from mmalign.shapes.clips import render_clip, sample_clip
from mmalign.shapes.judges import CaptionJudge, ImageJudge, MotionJudge
from mmalign.shapes.sight_pairs import SightPair, read_pairs, write_pairs
from mmalign.shapes.sights import render_sight, sample_sight
from mmalign.shapes.sources import CaptionPairs, ClipPairs, ImagePairs
from mmalign.types import UserError

PAIR = SightPair(
    "one",
    "heldout",
    9,
    4,
    "Describe the picture.",
    "a red star",
    "a red star and a blue cross",
    "truth",
    "made",
)


def test_a_pair_becomes_a_picture_a_question_and_two_answers(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, [PAIR])
    (sample,) = load(CaptionPairs(path=str(path), prompts="heldout")).samples
    assert sample.id == "one" and sample.origin == "pairs.jsonl row 1"
    chosen, rejected = (sample.examples[role][0] for role in ("chosen", "rejected"))
    assert chosen.prompt[0].parts[0].data is rejected.prompt[0].parts[0].data
    picture, question = chosen.prompt[0].parts
    assert isinstance(picture.data, Image.Image)
    assert ImageChops.difference(picture.data, render_sight(sample_sight("heldout", 9, 4))).getbbox() is None
    assert question.data == PAIR.question
    assert (chosen.response[0].data, rejected.response[0].data) == (PAIR.chosen, PAIR.rejected)


def test_a_pair_becomes_a_clip_at_four_frames_per_second(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, [PAIR])
    (sample,) = load(ClipPairs(path=str(path), prompts="heldout")).samples
    clip = sample.examples["chosen"][0].prompt[0].parts[0].data
    assert isinstance(clip, Clip)
    assert torch.equal(clip.frames, render_clip(sample_clip("heldout", 9, 4)))
    assert clip.sampled_rate == clip.rate == 4.0 and clip.seconds == (0.0, 0.25, 0.5, 0.75)


def test_flipping_swaps_the_sides(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, [PAIR])
    (sample,) = load(CaptionPairs(path=str(path), prompts="heldout", flip=1.0)).samples
    assert sample.examples["chosen"][0].response[0].data == PAIR.rejected


def test_a_file_without_the_stream_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, [PAIR])
    with pytest.raises(UserError, match="holds no pair with split 'training'"):
        load(CaptionPairs(path=str(path)))
    with pytest.raises(UserError, match="nowhere.jsonl: No such file or directory"):
        load(ClipPairs(path=str(tmp_path / "nowhere.jsonl")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "line 2: split must be one of training, validation, heldout, novel, got 'test'"),
        ({"number": "4"}, "line 2: number must be of type int, got '4'"),
        ({"chosen": None}, "line 2: chosen must be of type str, got None"),
        ({"chosen_from": "people"}, "line 2: chosen_from must be one of sample, truth, made, got 'people'"),
        ({"more": 1}, "line 2: a pair is an object with the fields id, split, seed"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(asdict(PAIR)) + "\n" + json.dumps(asdict(PAIR) | change) + "\n")
    with pytest.raises(UserError, match=message):
        read_pairs(path)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("{\n")
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("source", "judge"),
    [
        (CaptionPairs(judged=True, limit=3), CaptionJudge()),
        (ClipPairs(judged=True, limit=3), MotionJudge()),
        (ImagePairs(judged=True, num=3), ImageJudge()),
    ],
)
def test_the_judge_scores_both_sides_and_their_difference_is_the_margin(source: Any, judge: Judge) -> None:
    samples = load(source).samples
    assert len(samples) == 3
    for sample in samples:
        sides = [sample.examples[role][0] for role in ("chosen", "rejected")]
        found = [judge.score(side.prompt, side.response[0])["score"] for side in sides]
        assert [side.labels["score"] for side in sides] == found
        assert sample.labels["margin"] == found[0] - found[1] > 0


def test_pairs_are_not_judged_unless_asked() -> None:
    sample = load(CaptionPairs(limit=1)).samples[0]
    assert "margin" not in sample.labels and not sample.examples["chosen"][0].labels
