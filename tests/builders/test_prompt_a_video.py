"""Prompt-A-Video: the published sum and bounds, which rewrites meet, what is left out and what is refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from builders.clip_tools import ROOT, Teller, Turns, said, tools
from PIL import Image

from mmalign.builders import _config, prompt_a_video
from mmalign.builders._candidates import EQUAL, TOO_FEW, Asked
from mmalign.builders._whole_rows import Remade
from mmalign.builders.prompt_a_video import PromptAVideo
from mmalign.types import Message, Part, UserError

GOOD = {"VQ": 2.8, "TC": 2.7, "FC": 2.6, "DD": 2.7, "TVA": 3.0, "AES": 5.6, "MPS": 9.0}
WORSE = {"VQ": 2.3, "TC": 2.4, "FC": 2.3, "DD": 2.6, "TVA": 2.8, "AES": 5.2, "MPS": 8.4}


@dataclass(frozen=True)
class ByText:
    """A judge with the scores of every rewrite, which is told the original prompt alone."""

    scores: Mapping[str, Mapping[str, float] | None]
    told: list[Turns] = field(default_factory=list)

    def score(self, prompt: Turns, response: Part) -> Mapping[str, float]:
        raise AssertionError("verdicts are asked for")

    def verdicts(self, prompts: Sequence[Turns], responses: Sequence[Part]) -> list[Any]:
        self.told.extend(prompts)
        own = [self.scores[one.data] for one in responses]
        return [None if one is None else {"score": 0.0, **one} for one in own]


def cat(name: str = "p", text: str = "a cat") -> Asked:
    return Asked(name, (Message("text", (Part("text", text),)),))


def made(
    builder: PromptAVideo, texts: Sequence[str], scores: Mapping[str, Any], *rows: Asked
) -> list[Remade]:
    """What becomes of prompts whose samples are these texts, in turn."""
    count = iter(range(10**6))
    teller = Teller(lambda turns, seed: texts[next(count) % len(texts)])
    given = rows or (cat(),)
    return builder.make(given, tools(given, teller, judge=ByText(scores)), 0)


def test_the_published_sum() -> None:
    builder = PromptAVideo()
    assert builder.total(GOOD) == pytest.approx(22.45)
    assert builder.total(WORSE) == pytest.approx(20.46, abs=0.005)
    (found,) = made(PromptAVideo(n=2, top=1), ["good", "worse"], {"good": GOOD, "worse": WORSE})
    (new,) = found.rows
    assert new.columns["margin"] == pytest.approx(1.99, abs=0.01)
    assert new.columns["chosen_score"] == pytest.approx(22.45)
    assert [new.answers[role] for role in ("chosen", "rejected")] == [
        Part("text", "good"),
        Part("text", "worse"),
    ]
    assert said(new.prompt).endswith("\nPrompt: a cat") and new.prompt[0].speaker == "user"
    assert new.told["scores"][1]["VQ"] == 2.3 and len(set(new.told["seeds"])) == 2


def test_prompts_that_show_something_are_left_out() -> None:
    """What they show would be lost: neither the model nor who paints is given it."""
    turns = (Message("user", (Part("image", Image.new("RGB", (2, 2))), Part("text", "a cat"))),)
    found = made(PromptAVideo(n=2, top=1), ["good", "worse"], {}, Asked("p", turns))
    assert found == [Remade(counts=Counter({prompt_a_video.MEDIA: 1}))]


ONE = {"weights": {"s": 1.0}, "least": {"s": 5.0}, "gap": 2.0, "template": "{prompt}!"}
FIVE = ["a", "b", "c", "d", "e"]


def test_the_best_two_meet_all_that_score_far_lower() -> None:
    values = {"a": 6.0, "b": 9.0, "c": 3.0, "d": 7.5, "e": 5.5}
    (found,) = made(PromptAVideo(**ONE), FIVE, {name: {"s": value} for name, value in values.items()})
    # b over a, c and e, not d; d over c, and e is just two below
    assert [new.name for new in found.rows] == ["1-0", "1-4", "1-2", "3-2"]
    assert found.counts == {prompt_a_video.CLOSE: 3}
    assert said(found.rows[0].prompt) == "a cat!"


def test_a_score_must_lie_above_its_bound() -> None:
    values = {"a": 5.0, "b": 1.0, "c": 1.5, "d": 2.0, "e": 1.2}
    (found,) = made(PromptAVideo(**ONE), FIVE, {name: {"s": value} for name, value in values.items()})
    assert found == Remade((), Counter({prompt_a_video.POOR: 2}))


def test_what_is_left_out_is_counted() -> None:
    scores = {"a b c": {"s": 9.0}, "d": {"s": 1.0}, "e": None}
    builder = PromptAVideo(**ONE, max_words=2, top=1)
    (long,) = made(builder, ["a b c", "d", "d ", "e", "d"], scores)
    assert long == Remade((), Counter({prompt_a_video.LONG: 1, prompt_a_video.UNREAD: 1, EQUAL: 2}))
    (alike,) = made(PromptAVideo(**ONE), ["d"], scores)
    assert alike == Remade((), Counter({TOO_FEW: 1, EQUAL: 4}))
    digits, fine = made(
        PromptAVideo(**ONE, top=1), FIVE, {x: {"s": 1.0} for x in FIVE}, cat("q", "no 1, 2 or 3"), cat()
    )
    assert digits == Remade((), Counter({prompt_a_video.DIGITS: 1}))
    assert fine.counts == {prompt_a_video.POOR: 1}


def test_the_judge_is_told_the_original_prompt() -> None:
    rows = [cat("p"), cat("q", "a dog, 12 of them")]
    judge = ByText({x: {"s": 1.0} for x in FIVE})
    count = iter(range(100))
    teller = Teller(lambda turns, seed: FIVE[next(count) % 5])
    PromptAVideo(**ONE).make(rows, tools(rows, teller, judge=judge), 0)
    assert judge.told == [rows[0].turns] * 5 + [rows[1].turns] * 5
    assert said(teller.asked[0][0]) == "a cat!" and len({seed for _, seed in teller.asked}) == 10


def test_a_judge_without_the_scores_is_refused() -> None:
    with pytest.raises(UserError, match="judge: gives no score 's', which builder.weights"):
        made(PromptAVideo(**ONE), FIVE, {x: {"t": 1.0} for x in FIVE})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"n": 1}, "n: must be 2 or more, got 1"),
        ({"top": 5}, "top: must be from 1 to less than n, got 5"),
        ({"template": "Reword."}, "template: must hold {prompt} once"),
        ({"weights": {}}, "weights: name at least one score"),
        ({"gap": -0.1}, "gap: must be 0 or more, got -0.1"),
        ({"max_words": 0}, "max_words: must be 1 or more, got 0"),
    ],
)
def test_settings_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PromptAVideo(**fields)


def test_the_shipped_config_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    config = _config.load("configs/build/prompt_a_video.yaml", [f"output={tmp_path}/out"])
    assert config.builder.weights == {"faithfulness": 1.0} and config.judge.model["adapter"] == "diffusion"
    again = _config.from_tree(_config.to_tree(config), "again")
    assert again.builder == config.builder and again.judge == config.judge
