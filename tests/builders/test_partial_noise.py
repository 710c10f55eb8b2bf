"""Partial noise: labels of segments in numbers, and settings that are refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.builders import _config
from mmalign.builders._candidates import Group, Made, Paired
from mmalign.builders.partial_noise import EVEN, FEW, UNREAD, PartialNoise
from mmalign.clips import Clip
from mmalign.types import Message, Part


def clip(*values: int) -> Part:
    """A clip of one grey value per frame."""
    frames = torch.stack([torch.full((3, 2, 2), value, dtype=torch.uint8) for value in values])
    places = tuple(range(len(values)))
    return Part("video", Clip(frames, places, tuple(i / 4 for i in places), 4.0, len(values), "memory"))


@dataclass(frozen=True)
class Grey:
    """A judge of a user's own: the mean value of a clip, or the first red value of a picture."""

    def score(self, prompt: Any, response: Part) -> dict[str, float]:
        if response.kind == "image":
            return {"score": float(response.data.getpixel((0, 0))[0])}
        return {"score": float(response.data.frames.float().mean())}


@dataclass(frozen=True)
class Doubtful(Grey):
    """The same, but in words that nobody can read on what is too bright."""

    def verdicts(self, prompts: Any, responses: Sequence[Part]) -> list[dict[str, float] | None]:
        scores = [self.score(None, one) for one in responses]
        return [one if one["score"] < 100 else None for one in scores]


def made(*answers: Part, cuts: Any = ((0, 1), (1, 3), (3, 4)), judge: Any = None, **fields: Any) -> Paired:
    """What becomes of one group."""
    turns = (Message("text", (Part("text", "a cat"),)),)
    group = Group("p", turns, answers, tuple(range(len(answers))), cuts)
    (paired,) = PartialNoise(**{"segments": len(cuts) or None, **fields}).pair([group], judge or Grey(), 0)
    return paired


@pytest.mark.parametrize("reads", ["clips", "frames"])
def test_every_segment_has_its_own_winner(reads: str) -> None:
    """Segments 9 | 1 3 | 4 and 5 | 4 6 | 4: means 9, 2, 4 against 5, 5, 4, together 5 against 14/3."""
    paired = made(clip(5, 4, 6, 4), clip(9, 1, 3, 4), reads=reads)
    (pair,) = paired.pairs
    assert (pair.chosen, pair.rejected, pair.segments) == (1, 0, (1, -1, 0))
    assert pair.gap == pytest.approx(1 / 3)
    assert paired.scores[1] == {"score": 5.0, "segment 1": 9.0, "segment 2": 2.0, "segment 3": 4.0}
    assert paired.counts == {EVEN: 1}


def test_a_margin_makes_ties_and_ties_may_leave_a_pair_out() -> None:
    sides = clip(5, 4, 6, 4), clip(9, 1, 3, 4)
    assert made(*sides, min_gap=3).pairs[0].segments == (1, 0, 0), "3 apart is not more than 3"
    assert made(*sides, min_gap=2.9).pairs[0].segments == (1, -1, 0)
    none = made(*sides, min_gap=4)
    assert none.pairs == () and none.counts == {FEW: 1}
    assert made(*sides, min_gap=3, min_labels=2).pairs == ()


def test_copies_that_are_even_on_the_whole_may_differ_in_parts() -> None:
    paired = made(clip(9, 1), clip(1, 9), cuts=((0, 1), (1, 2)))
    assert paired.pairs == (Made(0, 1, 0.0, segments=(1, -1)),)


def test_of_several_copies_two_or_every_two() -> None:
    copies = clip(3), clip(7), clip(5)
    (best,) = made(*copies, cuts=((0, 1),), n=3).pairs
    assert (best.chosen, best.rejected, best.gap) == (1, 0, 4.0)
    every = made(*copies, cuts=((0, 1),), n=3, strategy="all").pairs
    assert [(one.chosen, one.rejected) for one in every] == [(1, 2), (1, 0), (2, 0)]
    assert all(one.segments == (1,) for one in every)


def test_without_segments_copies_are_judged_whole() -> None:
    paired = made(clip(1, 3), clip(4, 8), cuts=())
    assert paired.pairs == (Made(1, 0, 4.0),) and paired.scores[0] == {"score": 2.0}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n": 1}, "n: must be 2 or more"),
        ({"strength": 0.0}, "strength: must be above 0"),
        ({"strength": 1.1}, "strength: must be above 0 and at most 1"),
        ({"segments": 0}, "segments: must be 1 or more"),
        ({"min_gap": -1.0}, "min_gap: must be 0 or more"),
        ({"segments": 2, "min_labels": 3}, r"min_labels: must lie in 1\.\.2"),
    ],
)
def test_settings_that_contradict_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PartialNoise(**fields)


def test_the_shipped_config_is_one() -> None:
    shipped = _config.load(Path(__file__).parents[2] / "configs" / "build" / "partial_noise_video.yaml")
    assert shipped.builder == PartialNoise(segments=3, reads="frames", min_gap=0.1)
    assert _config.from_tree(_config.to_tree(shipped), "test") == shipped


@pytest.mark.parametrize("reads", ["clips", "frames"])
def test_a_copy_of_which_a_segment_has_no_verdict_counts_for_nothing(reads: str) -> None:
    copies = clip(9, 1, 200, 4), clip(5, 4, 6, 4), clip(9, 1, 3, 4)
    paired = made(*copies, n=3, strategy="all", reads=reads, judge=Doubtful())
    (pair,) = paired.pairs
    assert (pair.chosen, pair.rejected, pair.segments) == (2, 1, (1, -1, 0))
    assert paired.scores[0] is None and paired.counts == {UNREAD: 1, EVEN: 1}
    best = made(*copies, n=3, reads=reads, judge=Doubtful())
    assert best.pairs == paired.pairs
    alone = made(*copies[:2], reads=reads, judge=Doubtful())
    assert alone.pairs == () and alone.counts == {UNREAD: 1}
