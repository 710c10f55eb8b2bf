"""The benchmark on a model of clips: its questions and their controls, its pairs, its table and its plan."""

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "scripts" / "bench"))

import _video_pairs  # noqa: E402
import _video_runs  # noqa: E402
import _video_table  # noqa: E402
import _video_world  # noqa: E402
import shapes_video  # noqa: E402
from _video_world import Asked, ask, first_questions, with_frames  # noqa: E402

from mmalign.shapes.judges import MotionJudge  # noqa: E402
from mmalign.types import Part  # noqa: E402


def score(asked: Asked, answer: str, frames: Any = "ordered") -> float:
    clip = with_frames(asked.clip, frames, random.Random(0))
    return MotionJudge().score(_video_world.prompt_of(clip, asked.question), Part("text", answer))["score"]


def test_both_answers_of_a_relay_are_what_the_frames_show() -> None:
    """By the judge that reads the pixels; which thing is named first tells nothing."""
    relays = first_questions("heldout", 7, "relay", 12)
    for one in relays:
        assert one.opposite is not None
        assert (score(one, one.answer), score(one, one.opposite)) == (1.0, 0.0)
        assert (score(one, one.answer, "reversed"), score(one, one.opposite, "reversed")) == (0.0, 1.0)
    assert 2 < sum(one.answer == one.named[0] for one in relays) < 10


def test_frames_of_random_order_tell_no_direction_of_time() -> None:
    """With every order there is its reversal, but neither the right order nor its own reversal."""
    orders = _video_world.ORDERS
    assert len(orders) == len(set(orders)) == 22 and all(order[::-1] in orders for order in orders)
    assert set(permutations(range(4))) - set(orders) == {(0, 1, 2, 3), (3, 2, 1, 0)}
    clip = first_questions("heldout", 7, "relay", 1)[0].clip
    frozen = with_frames(clip, "frozen", random.Random(0))
    assert all(torch.equal(frame, clip.frames[-1]) for frame in frozen.frames)
    assert frozen.seconds == clip.seconds


def test_motion_reversed_is_the_opposite_answer() -> None:
    moving = [one for one in first_questions("heldout", 7, "motion", 10) if one.opposite is not None]
    assert len(moving) > 5
    for one in moving[:5]:
        assert one.opposite is not None
        assert score(one, one.answer) == score(one, one.opposite, "reversed") == 1.0


def test_the_habit_is_followed_as_often_as_its_strength_says() -> None:
    one = first_questions("training", 7, "relay", 1)[0]
    for kind, strength in _video_pairs.ORDER_HABIT.items():
        first = replace(one, named=(f"the black {kind}", one.answer), habit=f"the black {kind}")
        said = [_video_pairs.habitual(first, random.Random(number)) for number in range(300)]
        assert set(said) == {first.habit, one.answer}
        assert said.count(f"the black {kind}") / 300 == pytest.approx(strength, abs=0.07)
    assert _video_pairs.habitual(replace(one, habit=None), random.Random(0)) == one.answer


class Teller:
    """Answers by what the frames show, except for clips whose number is odd, where it follows the habit."""

    def __call__(self, asked: Sequence[Asked], orders: Sequence[Sequence[int]], seed: int) -> list[str]:
        return [self._one(one, list(order), seed) for one, order in zip(asked, orders, strict=True)]

    def _one(self, one: Asked, order: list[int], seed: int) -> str:
        assert one.opposite is not None
        if one.number % 2 and seed % 2:
            return one.named[0]
        return one.answer if order[0] < 2 else one.opposite


@pytest.mark.parametrize("kind", _video_pairs.KINDS)
def test_pairs_of_every_kind(
    kind: _video_pairs.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_video_pairs, "CHUNK", 8)
    pairs, told = _video_pairs.make_pairs(kind, Teller(), {"relay": 6})
    assert len(pairs) == told["pairs"] == 6 and told["questions"] >= 8
    right = 0
    for pair in pairs:
        asked = ask("training", _video_pairs.PAIR_SEED, "relay", pair.number)
        assert asked is not None and pair.question == asked.question and pair.chosen != pair.rejected
        right += pair.chosen == asked.answer
        if kind in ("own", "tpo", "world"):
            assert pair.rejected != asked.answer
    assert right == told["chosen right"]
    file = tmp_path / "pairs.jsonl"
    _video_pairs.write_pairs(file, pairs)
    plain, mixed = (
        list(_video_pairs.TemporalPairs(path=str(file), shuffled=shuffled).samples())
        for shuffled in (False, True)
    )
    for pair, sample, other in zip(pairs, plain, mixed, strict=True):
        (chosen,), (changed,) = sample.examples["chosen"], other.examples["chosen"]
        assert chosen.response[0].data == pair.chosen == changed.response[0].data
        frames, moved = (one.prompt[0].parts[0].data.frames for one in (chosen, changed))
        assert not torch.equal(frames, moved) or len({f.numpy().tobytes() for f in frames}) < 4


def cell(name: str, seed: int, right: str, shuffled: str, **more: Any) -> dict[str, Any]:
    turned = {"1": "0", "0": "1"}
    marks = {"relay": right, "motion": right, "relay shuffled": shuffled, "motion shuffled": shuffled}
    marks |= {"relay reversed": shuffled, "relay frozen": shuffled}
    opposite = {f"{key}, opposite": "".join(turned[one] for one in value) for key, value in marks.items()}
    return {
        "run": name,
        "split": "heldout",
        "seed": seed,
        "motion moves": "1110",
        **marks,
        **opposite,
        **more,
    }


def test_the_table_sets_the_gain_against_the_gain_with_shuffled_frames() -> None:
    """Two seeds gain 50 and 75 points in order and 25 and 0 with shuffled frames: 37.5 points between. Of
    motion the three questions on things that move count, an opposite answer as minus one."""
    cells = [cell("base", 0, "1000", "1000")]
    for seed, right, shuffled in ((0, "1110", "1100"), (1, "1111", "1000")):
        cells.append(cell("dpo", seed, right, shuffled, steps=80, cpu_seconds=10.0))
    row = _video_table.needs_order_table(_video_table.Table(cells)).splitlines()[-1].split(" | ")
    assert row[:2] == ["| dpo", "own"]
    assert [field.split(" [")[0] for field in row[2:5]] == ["+62.5", "+12.5", "+50.0"]
    assert [field.split(" [")[0] for field in row[5:8]] == ["+133.3", "+33.3", "+100.0"]
    assert _video_table.still(cells[1], "motion") == [0.0]
    assert "| dpo | 87.5 (75/100), +62.5 [" in _video_table.order_table(_video_table.Table(cells[:3]))


def test_first_seeds_come_first_and_all_configs_are_there() -> None:
    planned = list(shapes_video.order(_video_runs.ARMS))
    assert [seed for _, seed in planned] == sorted(seed for _, seed in planned)
    assert len(planned) == sum(arm.seeds for arm in _video_runs.ARMS)
    names = [arm.name for arm in _video_runs.ARMS]
    assert len(set(names)) == len(names)
    assert {name for pair in _video_table.COMPARED for name in pair} <= set(names)
    for arm in _video_runs.ARMS:
        assert (_video_runs.CONFIGS / f"{arm.config}.yaml").is_file()


def test_figures_are_marks_of_every_question() -> None:
    """A model that always names the first thing of the question, and "right" for motion."""

    def answers(prompts: Sequence[Any]) -> list[str]:
        texts = [prompt[0].parts[1].data for prompt in prompts]
        return [t.split(", ")[1].split(" or ")[0] if "first" in t else "right" for t in texts]

    found = _video_runs.figures(answers, "heldout", 8)
    assert set(map(len, found.values())) == {8}
    assert found["relay"] == found["relay reversed"] and found["relay neither"] == "0" * 8
    both = list(zip(found["relay"], found["relay, opposite"], strict=True))
    assert set(both) == {("1", "0"), ("0", "1")}
    assert found["count"] == "0" * 8
    assert "1" in found["motion habit"] and not any(
        a == b == "1" for a, b in zip(found["motion"], found["motion habit"], strict=True)
    )
