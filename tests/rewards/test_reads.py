"""What judges read: clips by their frames, kinds by their names, and judges that do not fit a model."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.catalogue import catalogue
from mmalign.rewards._reads import answers_of, made_by, reads_of, refuse_unread
from mmalign.rewards.brightness import Brightness
from mmalign.rewards.saturation import Saturation
from mmalign.shapes.judges import ImageJudge, StoryJudge
from mmalign.types import Clip, Frames, Judge, Message, Part, UserError

PROMPT = (Message("user", (Part("text", "a ball"),)),)
TEXTS, PIXELS = made_by("exact"), made_by("surrogate")


def clip_of(*greys: int) -> Part:
    frames = torch.tensor(greys, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 6, 5).contiguous()
    count = len(greys)
    clip = Clip(frames, tuple(range(count)), tuple(i / 4 for i in range(count)), 4.0, count, "memory")
    return Part("video", clip)


def test_the_score_of_a_clip_is_the_mean_over_its_frames() -> None:
    picture = Part("image", Image.new("RGB", (5, 6), (51, 51, 51)))
    given = [clip_of(0, 51, 102), picture, clip_of(255)]
    scores = [one["score"] for one in Brightness().score_many([PROMPT] * 3, given)]
    assert scores == pytest.approx([0.2, 0.2, 1.0], abs=1e-6)


def test_frames_keep_their_order_of_rows_and_colours() -> None:
    frame = torch.zeros(1, 3, 6, 5, dtype=torch.uint8)
    frame[0, 0, :3] = 255  # the upper half is red
    part = Part("video", Clip(frame, (0,), (0.0,), 4.0, 1, "memory"))
    (_, seen, caption), *rest = Saturation().frames([PROMPT], [part])
    assert (seen.size, seen.getpixel((4, 2)), seen.getpixel((4, 3))) == ((5, 6), (255, 0, 0), (0, 0, 0))
    assert (caption, rest) == ("a ball", [])


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            Part("text", "yes"),
            "brightness: response 1: reads pictures and clips, got a response of kind text",
        ),
        (Part("video", "ball.mp4"), "response 1: reads decoded clips, got str"),
        (Part("image", "ball.png"), "response 1: reads decoded pictures, got str"),
    ],
)
def test_what_is_not_seen_is_refused(part: Part, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Brightness().score_many([PROMPT], [part])


def combined(*names: str) -> Any:
    return build_named(
        KINDS["judge"], {"name": "combined", "parts": [{"name": n} for n in names]}, "judge", True
    )


@dataclass(frozen=True)
class Silent:
    """A judge that does not say what it reads."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> dict[str, float]:
        return {"score": 0.0}


def test_a_sum_reads_what_all_its_parts_read() -> None:
    assert reads_of(combined("brightness", "saturation")) == {"image", "video"}
    assert reads_of(combined("brightness", "mmalign.shapes.judges:ImageJudge")) == {"image"}
    nothing = combined("brightness", "mmalign.shapes.judges:StoryJudge")
    with pytest.raises(UserError, match="combined reads nothing that its parts share"):
        refuse_unread(nothing, TEXTS, "judge")


@pytest.mark.parametrize(
    ("judge", "made", "words"),
    [
        (
            Brightness(),
            TEXTS,
            "j: brightness reads pictures and clips, and this model makes texts; use .*reward_model",
        ),
        (
            StoryJudge(),
            PIXELS,
            "StoryJudge reads texts, and this model makes pictures or clips; use .*brightness",
        ),
        (ImageJudge(), frozenset({"video"}), "reads pictures, and this model makes clips; use .*clip_score"),
    ],
)
def test_a_judge_that_reads_nothing_of_it_is_refused_with_those_that_do(
    judge: Judge, made: frozenset[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        refuse_unread(judge, made, "j")


def test_judges_that_fit_or_do_not_say_pass() -> None:
    refuse_unread(Brightness(), PIXELS, "j")
    refuse_unread(Silent(), TEXTS, "j")
    refuse_unread(StoryJudge(), made_by("reward"), "j")  # it answers nothing that could be judged


def test_a_loaded_model_tells_pictures_from_clips() -> None:
    model: Any = SimpleNamespace(kind="surrogate", frames=None)
    assert answers_of(model) == {"image"}
    model.frames = Frames()
    assert answers_of(model) == {"video"}
    model.kind = "exact"  # a language model that watches clips answers in words
    assert answers_of(model) == {"text"}


def test_the_list_says_what_every_judge_reads() -> None:
    listed = {entry.name: entry.reads for entry in catalogue("rewards")}
    assert listed["clip_score"] == listed["step_preference"] == ("pictures", "clips")
    assert listed["reward_model"] == ("texts",)
    assert [name for name, reads in listed.items() if not reads] == ["combined"]  # by its parts
