"""Pairs drawn from the shipped models: sides as stated, streams kept apart; the shipped files likewise."""

from collections import Counter

import pytest

from mmalign.data._sources import SampleSource, load
from mmalign.shapes.clips import sample_clip
from mmalign.shapes.judges import CaptionJudge, MotionJudge
from mmalign.shapes.sight_pairs import CAPTION_PAIRS_FILE, CLIP_PAIRS_FILE, SPLITS, SightPair, read_pairs
from mmalign.shapes.sights import Split, is_held_out, sample_sight
from mmalign.shapes.sources import CaptionPairs, ClipPairs
from mmalign.shapes.tiny_qwen_vl import VIDEO_FOLDER, VLM_FOLDER, load_vlm
from mmalign.shapes.vlm_pairs import SEED, Counts, caption_pairs, clip_pairs
from mmalign.types import Judge, Message, Part, PreferenceSample

FILES = {"caption": CAPTION_PAIRS_FILE, "clip": CLIP_PAIRS_FILE}


def topic_of(pair: SightPair) -> str:
    return pair.id.split("-")[2]


def sides(sample: PreferenceSample) -> tuple[tuple[Message, ...], Part, Part]:
    chosen, rejected = (sample.examples[role][0] for role in ("chosen", "rejected"))
    return chosen.prompt, chosen.response[0], rejected.response[0]


@pytest.mark.parametrize("name", FILES)
def test_the_shipped_file_is_small_and_its_scenes_belong_to_their_streams(name: str) -> None:
    pairs = read_pairs(FILES[name])
    assert FILES[name].stat().st_size < 250_000
    assert len({pair.id for pair in pairs}) == len(pairs)
    assert {pair.split for pair in pairs} == set(SPLITS) - {"novel"}
    for pair in pairs:
        things = (sample_sight if name == "caption" else sample_clip)(
            pair.split, pair.seed, pair.number
        ).things
        assert pair.seed == SEED and not any(is_held_out(thing) for thing in things)
        assert pair.rejected_from in ("sample", "made") and pair.chosen_from in ("sample", "truth")


@pytest.mark.parametrize("split", ["training", "validation", "heldout"])
@pytest.mark.parametrize(("source", "judge"), [(CaptionPairs, CaptionJudge()), (ClipPairs, MotionJudge())])
def test_an_exact_judge_prefers_the_chosen_side(split: Split, source: type, judge: Judge) -> None:
    rows: SampleSource = source(prompts=split, limit=60)
    for sample in load(rows).samples:
        prompt, chosen, rejected = sides(sample)
        right, wrong = judge.score(prompt, chosen), judge.score(prompt, rejected)
        if "hallucinates" in right:
            assert right["hallucinates"] == 0 and wrong["hallucinates"] == 1, sample.id
        else:
            assert right["score"] == 1 and wrong["score"] == 0, sample.id


def test_most_chosen_captions_are_the_models_own() -> None:
    pairs = [p for p in read_pairs(CAPTION_PAIRS_FILE) if p.split == "training" and topic_of(p) == "caption"]
    assert sum(p.chosen_from == "sample" for p in pairs) >= 0.7 * len(pairs)
    assert all(p.rejected_from == "sample" for p in pairs)


def test_yes_and_no_are_balanced_in_training_and_order_is_the_smaller_part() -> None:
    captions = [p for p in read_pairs(CAPTION_PAIRS_FILE) if p.split == "training"]
    answers = Counter(p.chosen for p in captions if topic_of(p) == "presence")
    assert answers["yes"] == answers["no"] > 0
    clips = Counter(topic_of(p) for p in read_pairs(CLIP_PAIRS_FILE) if p.split == "training")
    assert 0 < clips["order"] <= sum(clips.values()) / 3


def test_drawing_is_repeatable_and_takes_no_scene_out_of_the_other_streams() -> None:
    counts = Counts({"caption": 3, "presence": 2}, {"caption": 5, "presence": 2})
    model, processor = load_vlm(VLM_FOLDER)
    pairs = caption_pairs(model, processor, counts)
    assert pairs == caption_pairs(model, processor, counts)
    assert Counter((p.split, topic_of(p)) for p in pairs) == {
        ("training", "caption"): 3, ("training", "presence"): 2,
        ("validation", "caption"): 5, ("validation", "presence"): 2,
        ("heldout", "caption"): 5, ("heldout", "presence"): 2,
    }  # fmt: skip
    unchosen = [p.number for p in pairs if p.split == "heldout" and topic_of(p) == "caption"]
    assert unchosen == [0, 1, 2, 3, 4]


def test_clip_pairs_are_drawn_like_those_of_pictures() -> None:
    model, processor = load_vlm(VIDEO_FOLDER)
    pairs = clip_pairs(model, processor, Counts({"motion": 3, "order": 1}, {"motion": 2, "order": 1}))
    assert Counter(p.split for p in pairs) == {"training": 4, "validation": 3, "heldout": 3}
    assert all(p.rejected_from == "sample" for p in pairs if p.split == "training")
