"""The judges of captions and clips behind the scorer protocol: worked verdicts, agreement with the world."""

import random
from collections.abc import Mapping

import pytest
from PIL import Image

from mmalign.shapes.clip_text import ask_clip
from mmalign.shapes.clips import USUAL_MOTION, sample_clip
from mmalign.shapes.judges import CaptionJudge, MotionJudge
from mmalign.shapes.sight_pairs import clip_of
from mmalign.shapes.sight_text import DESCRIBE_PICTURE, Topic, ask, caption_of
from mmalign.shapes.sights import COLOURS, Item, Sight, Thing, render_sight, sample_sight
from mmalign.types import Message, Part, UserError

CIRCLE, STAR = Thing("circle", "red"), Thing("star", "orange")
PICTURE = render_sight(
    Sight(
        (
            Item(CIRCLE, "large", (14.0, 20.0), COLOURS["red"]),
            Item(STAR, "small", (34.0, 30.0), COLOURS["orange"]),
        ),
        (240, 240, 240),
    )
)


def caption(text: str, question: str = DESCRIBE_PICTURE) -> Mapping[str, float]:
    prompt = (Message("user", (Part("image", PICTURE), Part("text", question))),)
    return CaptionJudge().score(prompt, Part("text", text))


@pytest.mark.parametrize(
    ("text", "score", "recall", "hallucinates", "exact"),
    [
        ("a red circle and an orange star", 1, 1, 0, 1),
        ("an orange star and a red circle", 1, 1, 0, 0),  # the order is that from left to right
        ("a red circle", 0.5, 0.5, 0, 0),
        ("a red circle, an orange star and a blue cross", 1 - 1 / 3, 1, 1, 0),
        ("a red star and an orange circle", -1, 0, 1, 0),
        ("", 0, 0, 0, 0),
    ],
)
def test_captions(text: str, score: float, recall: float, hallucinates: float, exact: float) -> None:
    assert caption(text) == pytest.approx(
        {"score": score, "recall": recall, "hallucinates": hallucinates, "exact": exact}
    )


def test_presence_questions() -> None:
    assert caption("yes", "Is there a red circle?") == {"score": 1, "presence": 1}
    assert caption("no", "Is there a red circle?") == {"score": 0, "presence": 0}
    assert caption("no", "Is there an orange circle?") == {"score": 1, "presence": 1}
    assert caption("maybe", "Is there an orange circle?") == {"score": 0, "presence": 0}


def test_true_captions_and_answers_are_right() -> None:
    rng = random.Random(0)
    for number in range(40):
        sight = sample_sight("novel", 5, number)
        picture = render_sight(sight)
        for topic in ("caption", "presence"):
            question = ask(sight, topic, rng)
            assert question is not None
            prompt = (Message("user", (Part("image", picture), Part("text", question.text))),)
            assert CaptionJudge().score(prompt, Part("text", question.answer))["score"] == 1
        longer = caption_of([*sight.things, next(t for t in (CIRCLE, STAR) if t not in sight.things)])
        prompt = (Message("user", (Part("image", picture), Part("text", DESCRIBE_PICTURE))),)
        assert CaptionJudge().score(prompt, Part("text", longer))["hallucinates"] == 1


@pytest.mark.parametrize("topic", ["motion", "order", "count", "presence"])
def test_answers_about_clips(topic: Topic) -> None:
    rng, asked = random.Random(1), 0
    for number in range(40):
        clip = sample_clip("heldout", 5, number)
        question = ask_clip(clip, topic, rng)
        if question is None:
            continue
        asked += 1
        parts = (Part("video", clip_of("heldout", 5, number)), Part("text", question.text))
        scores = MotionJudge().score((Message("user", parts),), Part("text", question.answer))
        assert scores["score"] == scores[topic] == 1
        wrong = MotionJudge().score((Message("user", parts),), Part("text", "nothing"))
        assert wrong["score"] == wrong[topic] == 0
    assert asked > 10


def test_the_habit_is_counted_only_where_it_is_false() -> None:
    found = set()
    for number in range(60):
        clip = sample_clip("validation", 6, number)
        actor = clip.actors[0]
        kind = actor.item.thing.kind
        question = f"Which way does the {actor.item.thing.name} move?"
        parts = (Part("video", clip_of("validation", 6, number)), Part("text", question))
        scores = MotionJudge().score((Message("user", parts),), Part("text", USUAL_MOTION[kind]))
        usual = actor.motion == USUAL_MOTION[kind]
        found.add(usual)
        assert scores == ({"score": 1, "motion": 1} if usual else {"score": 0, "motion": 0, "habit": 1})
    assert found == {True, False}


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(UserError, match="question 'What is this\\?' about a picture is not judged"):
        caption("a star", "What is this?")
    asking = Message("user", (Part("text", DESCRIBE_PICTURE),))
    with pytest.raises(UserError, match="reads one image per prompt, got 0"):
        CaptionJudge().score((asking,), Part("text", "a star"))
    prompt = (Message("user", (Part("image", PICTURE), Part("text", DESCRIBE_PICTURE))),)
    with pytest.raises(UserError, match="reads text, got a response of kind image"):
        CaptionJudge().score(prompt, Part("image", Image.new("RGB", (4, 4))))
    clip = Part("video", clip_of("validation", 6, 0))
    with pytest.raises(UserError, match="about a clip is not judged"):
        MotionJudge().score((Message("user", (clip, Part("text", "Why?"))),), Part("text", "so"))
    absent = "Which way does the yellow circle move?"
    with pytest.raises(UserError, match="a yellow circle, which the clip does not show"):
        MotionJudge().score((Message("user", (clip, Part("text", absent))),), Part("text", "left"))
