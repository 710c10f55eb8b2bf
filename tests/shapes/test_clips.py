"""Clips: what moves in the frames is what the clip says, and its captions and questions say the same."""

import random
from itertools import combinations

import pytest
import torch

from mmalign.shapes.clip_text import (
    CLIP_TOPICS,
    MOTION_ANSWERS,
    ask_clip,
    clip_caption_of,
    doing_of,
    parse_clip_caption,
    parse_motion_question,
)
from mmalign.shapes.clips import FRAMES, LATE, MOTIONS, USUAL_MOTION, render_clip, sample_clip
from mmalign.shapes.sight_text import COUNTS
from mmalign.shapes.sights import MARGIN, PICTURE, SPACING, Thing
from mmalign.types import UserError

CLIPS = [sample_clip("training", 0, number) for number in range(150)]


def test_shapes_stay_inside_apart_and_move_as_they_say() -> None:
    motions = set()
    for clip in CLIPS:
        for actor in clip.actors:
            (x, y), (x2, y2) = actor.centre_at(actor.onset), actor.centre_at(FRAMES - 1)
            assert all(MARGIN <= value <= PICTURE - MARGIN for value in (x, y, x2, y2))
            moved = {"left": x2 < x - 5, "right": x2 > x + 5, "up": y2 < y - 5, "down": y2 > y + 5}
            moved["still"] = (x, y) == (x2, y2)
            assert [name for name, hit in moved.items() if hit] == [actor.motion]
            motions.add(actor.motion)
        for frame in range(FRAMES):
            for a, b in combinations(clip.at(frame).items, 2):
                assert max(abs(a.centre[0] - b.centre[0]), abs(a.centre[1] - b.centre[1])) >= SPACING
    assert motions == set(MOTIONS)


def test_a_late_shape_is_missing_from_the_first_frames() -> None:
    late = [clip for clip in CLIPS if any(actor.onset for actor in clip.actors)]
    assert len(late) > 20
    for clip in late:
        assert [len(clip.at(f).items) for f in range(FRAMES)] == [len(clip.actors) - 1] * LATE + [
            len(clip.actors)
        ] * (FRAMES - LATE)


def test_frames_are_bytes_and_differ_where_something_moves() -> None:
    for clip in CLIPS[:20]:
        frames = render_clip(clip)
        assert frames.shape == (FRAMES, 3, PICTURE, PICTURE) and frames.dtype == torch.uint8
        static = all(actor.motion == "still" and actor.onset == 0 for actor in clip.actors)
        assert torch.equal(frames[0], frames[-1]) == static


def test_usual_motions_can_be_made_frequent() -> None:
    def share(usual: float) -> float:
        actors = [a for n in range(150) for a in sample_clip("training", 1, n, usual).actors]
        return sum(a.motion == USUAL_MOTION[a.item.thing.kind] for a in actors) / len(actors)

    assert share(0.0) < 0.3 and share(0.6) > 0.5


def test_clip_captions_are_read_back() -> None:
    assert clip_caption_of(((Thing("circle", "red"), "left"), (Thing("star", "orange"), "still"))) == (
        "a red circle moving left and an orange star standing still"
    )
    for clip in CLIPS:
        assert parse_clip_caption(clip_caption_of(doing_of(clip))) == doing_of(clip)
    with pytest.raises(UserError, match="caption language of clips"):
        parse_clip_caption("a red circle and an orange star")


@pytest.mark.parametrize("topic", CLIP_TOPICS)
def test_answers_are_those_of_the_clip(topic: str) -> None:
    rng, asked = random.Random(topic), 0
    for clip in CLIPS:
        question = ask_clip(clip, topic, rng)
        if question is None:
            continue
        asked += 1
        actors = {actor.item.thing: actor for actor in clip.actors}
        thing = question.things[0] if question.things else None
        if topic == "motion":
            assert parse_motion_question(question.text) == thing
            assert question.answer == MOTION_ANSWERS[actors[thing].motion]
        elif topic == "motion_check":
            said = question.text.removesuffix("?").split()[-1]
            assert question.answer == ("yes" if said == actors[thing].motion else "no")
        elif topic == "order":
            early = next(t for t in question.things if actors[t].onset == 0)
            assert question.answer == f"the {early.name}"
            assert sorted(actors[t].onset for t in question.things) == [0, LATE]
        elif topic == "count":
            assert question.answer == COUNTS[len(clip.actors)]
        elif topic == "presence":
            assert question.answer == ("yes" if thing in actors else "no")
        else:
            assert parse_clip_caption(question.answer) == doing_of(clip)
    assert asked > 30
