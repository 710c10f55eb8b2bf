"""Combined judges: totals by hand, comparisons by rule, gradients, permission, and refusals."""

import itertools
import math
from typing import Any

import pytest
import torch
from rewards.tiny_clip import picture, pixels_of, said, save_transformers, shown

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.config import from_tree, to_tree
from mmalign.rewards._scoring import score_all, score_readable
from mmalign.rewards.brightness import Brightness
from mmalign.rewards.clip_score import ClipScore
from mmalign.rewards.combined import Combined
from mmalign.rewards.saturation import Saturation
from mmalign.types import ManyJudge, Part, PixelReward, UserError

BRIGHT, COLOURFUL = {"name": "brightness"}, {"name": "saturation"}


def letter(name: str, **how: Any) -> dict[str, Any]:
    return {"name": "python_function", "function": f"rewards.own_scores:count_{name}", **how}


def judged(parts: list[dict[str, Any]], rule: str, answer: str) -> dict[str, float]:
    judge = build_named(KINDS["judge"], {"name": "combined", "parts": parts, "rule": rule}, "judge", True)
    return dict(judge.score(said(""), Part("text", answer)))


def test_a_sum_by_hand() -> None:
    parts = [
        letter("a", weight=2.0),
        letter("b", weight=-0.5, transform="standardise", mean=1.0, std=4.0),
        letter("c", transform="log_sigmoid"),
    ]
    found = judged(parts, "sum", "aaabbbbbcc")  # 3 a, 5 b, 2 c
    expected = 2 * 3 - 0.5 * (5 - 1) / 4 + math.log(1 / (1 + math.exp(-2)))
    assert found.pop("score") == pytest.approx(expected, abs=1e-9)
    assert found == {"python_function_1": 3, "python_function_2": 5, "python_function_3": 2}


def test_the_weakest_part_and_the_middle_vote() -> None:
    parts = [letter("a", weight=2.0), letter("b"), letter("c", weight=-1.0)]
    assert judged(parts, "and", "abbbc")["score"] == -1  # 2 * 1, 3, -1
    assert judged(parts, "and", "abbb")["score"] == 0
    votes = [letter("a"), letter("b"), letter("c")]
    assert judged(votes, "votes", "abbccccc")["score"] == 2
    assert judged(parts, "votes", "abbbc")["score"] == 1  # -1, 1 with two votes, 3
    assert judged([*votes[:2], letter("c", weight=3.0)], "votes", "abbccccc")["score"] == 5
    assert judged(votes[:2], "votes", "abbb")["score"] == 2  # even: between the two


@pytest.mark.parametrize("rule", ["sum", "and", "votes"])
def test_what_all_parts_prefer_has_the_larger_total(rule: str) -> None:
    parts = [letter("a", weight=0.3), letter("b", weight=2.0, transform="log_sigmoid"), letter("c")]
    low, high = (judged(parts, rule, text)["score"] for text in ("aabc", "aaabbcc"))
    assert high > low


def test_comparisons_by_rule() -> None:
    def verdict(rule: str, first: str, second: str, **how: Any) -> str:
        parts = (letter("a", **how), letter("b"), letter("c"))
        judge = Combined(parts, rule)  # type: ignore[arg-type]
        found = judge.compare(said(""), Part("text", first), Part("text", second))
        turned = judge.compare(said(""), Part("text", second), Part("text", first))
        assert {found, turned} in ({"first", "second"}, {"tie"})
        return found

    assert verdict("sum", "aaaaa", "abc") == "first" and verdict("votes", "aaaaa", "bc") == "second"
    assert verdict("and", "aaaaa", "abc") == "tie"  # the parts do not agree
    assert verdict("and", "aabbcc", "abc") == "first" and verdict("and", "", "abc") == "second"
    assert verdict("and", "aabb", "ab") == "tie"  # one part is indifferent
    assert verdict("votes", "aa", "ab") == "tie" and verdict("votes", "abc", "abc") == "tie"
    assert verdict("votes", "aa", "bc", weight=3.0) == "first"
    assert verdict("votes", "b", "ab", weight=-1.0) == "first"  # less a is better
    assert verdict("sum", "b", "ab", weight=-1.0) == "first"


def test_it_is_a_judge_of_many_and_batches_do_not_matter() -> None:
    judge = Combined((BRIGHT, {**COLOURFUL, "weight": -2.0}))
    assert isinstance(judge, ManyJudge) and isinstance(judge, PixelReward)
    pictures = [picture(i) for i in range(3)]
    listed = judge.score_many([said("")] * 3, [shown(p) for p in pictures])
    for image, scores in zip(pictures, listed, strict=True):
        assert judge.score(said(""), shown(image)) == scores
        bright, colourful = (j.score(said(""), shown(image))["score"] for j in (Brightness(), Saturation()))
        assert scores == {
            "score": pytest.approx(bright - 2 * colourful),
            "brightness": bright,
            "saturation": colourful,
        }
    assert judge.score_many([], []) == []


@pytest.mark.parametrize("rule", ["sum", "and", "votes"])
def test_rewards_agree_with_scores_and_have_a_gradient(
    rule: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = save_transformers(tmp_path_factory.mktemp("combined") / "clip")
    clip = {"name": "clip_score", "path": folder, "device": "cpu", "transform": "log_sigmoid"}
    standard = {"transform": "standardise", "mean": 0.5, "std": 0.1}
    judge = Combined((clip, {**BRIGHT, **standard}, {**COLOURFUL, **standard, "weight": -1.0}), rule)
    pixels = torch.cat([pixels_of(picture(i)) for i in range(4)]).requires_grad_()
    captions = ["red", "cat", "box", "blue"]
    totals = judge.reward(pixels, captions)
    listed = judge.score_many([said(c) for c in captions], [shown(picture(i)) for i in range(4)])
    assert totals.tolist() == pytest.approx([s["score"] for s in listed], abs=1e-3)
    (gradient,) = torch.autograd.grad(totals.sum(), pixels)
    assert all(one.abs().max() > 0 for one in gradient)
    assert judge.unchecked and not Combined((BRIGHT, COLOURFUL)).unchecked
    own = ClipScore(folder, device="cpu").score(said("red"), shown(picture(0)))["score"]
    assert listed[0]["clip_score"] == pytest.approx(own, abs=1e-5)


def test_every_order_of_parts_gives_the_same_totals() -> None:
    parts = [letter("a"), letter("b", weight=2.0), letter("c", weight=0.5)]
    for rule in ("sum", "and", "votes"):
        found = {
            round(judged(list(order), rule, "aabbbc")["score"], 9) for order in itertools.permutations(parts)
        }
        assert len(found) == 1


def test_parts_that_give_no_gradient_are_told() -> None:
    with pytest.raises(UserError, match="combined: python_function gives no gradient; leave it out"):
        Combined((BRIGHT, letter("a"))).reward(pixels_of(picture(0)), [""])


def test_wrong_parts_are_one_line() -> None:
    def refused(parts: list[dict[str, Any]], rule: str = "sum") -> str:
        with pytest.raises(UserError) as caught:
            build_named(KINDS["judge"], {"name": "combined", "parts": parts, "rule": rule}, "judge", False)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert refused([]) == "judge.parts: name at least one judge"
    assert "rule and needs at least two, got 1" in refused([BRIGHT], "and")
    assert "judge.parts[1]" in refused([BRIGHT, {"name": "brightnes"}])
    assert "did you mean brightness?" in refused([{"name": "brightnes"}])
    assert "parts[0]: needs name: NAME" in refused([{"weight": 1.0}])
    assert "parts[0]: unknown key wheight; did you mean weight? valid keys: name, weight" in refused(
        [{**BRIGHT, "wheight": 1.0}]
    )
    assert "parts[0].weight: must not be 0" in refused([{**BRIGHT, "weight": 0}])
    assert "parts[0].weight: must be a number, got true" in refused([{**BRIGHT, "weight": True}])
    assert "standardise needs mean and std" in refused([{**BRIGHT, "transform": "standardise", "mean": 1.0}])
    assert "not read with transform none" in refused([{**BRIGHT, "std": 1.0}])
    assert "parts[0].std: must be above 0" in refused(
        [{**BRIGHT, "transform": "standardise", "mean": 0.0, "std": 0.0}]
    )
    assert "parts[1].path: this field is required" in refused([BRIGHT, {"name": "clip_score"}])


def test_code_in_parts_needs_permission() -> None:
    own = {"name": "rewards.own_scores:Nothing"}
    for part in (letter("a"), own, {"name": "combined", "parts": [BRIGHT, letter("a")]}):
        section = {"name": "combined", "parts": [BRIGHT, part]}
        with pytest.raises(UserError, match=r"judge.parts\[1\].* would import code from outside mmalign"):
            build_named(KINDS["judge"], section, "judge", False)
    nested = {"name": "combined", "parts": [BRIGHT, {"name": "combined", "parts": [COLOURFUL, letter("a")]}]}
    assert build_named(KINDS["judge"], nested, "judge", True).members[1].name == "combined"


def test_a_config_with_parts_comes_back_the_same() -> None:
    tree = {
        "model": {"adapter": "text", "path": "x"},
        "data": {"source": "jsonl", "path": "x"},
        "objective": {"name": "sft"},
        "train": {"steps": 1},
        "evaluation": {"judge": {"name": "combined", "parts": [BRIGHT, {**COLOURFUL, "weight": -1.0}]}},
    }
    config = from_tree(tree, "config.yaml")
    assert from_tree(to_tree(config), "config.yaml") == config


def test_a_part_without_a_verdict_leaves_the_whole_without_one() -> None:
    written = {
        "name": "llm_judge",
        "writer": {"name": "python_function", "function": "writers.own_writers:graded"},
        "template": "{response}",
    }
    parts = [letter("a"), {"name": "combined", "parts": [written | {"weight": 2.0}]}]
    judge = build_named(KINDS["judge"], {"name": "combined", "parts": parts}, "judge", True)
    answers = [Part("text", text) for text in ("a b", "says nothing|", "a a a")]
    first, none, last = score_readable(judge, [said("")] * 3, answers)
    assert first == {"score": 5.0, "python_function": 1.0, "combined": 4.0}
    assert none is None and last == {"score": 9.0, "python_function": 3.0, "combined": 6.0}
    assert judge.score_steps([said("")] * 3, answers, [5, 5, 5]) == [first, none, last]
    assert score_readable(judge, [said("")], answers[1:2]) == [None]
    with pytest.raises(UserError, match="combined: the verdict of a part on response 2 cannot be read"):
        judge.score_many([said("")] * 3, answers)
    with pytest.raises(UserError, match="prompt 2: the judge's verdict cannot be read"):
        score_all(judge, [said("")] * 3, answers, timesteps=[5, 5, 5])
