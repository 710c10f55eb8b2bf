"""One way to score with any judge: many at once or one by one, checked the same."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import mmalign.rewards
from mmalign._build import build_named
from mmalign._names import KINDS, class_of, names
from mmalign.rewards._batch import BatchJudge
from mmalign.rewards._scoring import ready, score_all
from mmalign.types import Judge, ManyJudge, Message, Part, UserError

PROMPTS = [(Message("user", (Part("text", text),)),) for text in ("one", "three", "")]
ANSWERS = [Part("text", text) for text in ("a", "bb", "ccc")]


@dataclass
class Single:
    """Scores one response; refuses an empty prompt if told to."""

    strict: bool = False

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        words = prompt[0].parts[0].data
        if self.strict and not words:
            raise UserError("an empty prompt")
        return {"score": len(response.data), "prompt": len(words)}


@dataclass
class Many(Single):
    """Scores many; counts its calls, and gives what it is told to instead."""

    calls: list[int] = field(default_factory=list)
    instead: list[Mapping[str, float]] | None = None

    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        self.calls.append(len(responses))
        if self.instead is not None:
            return self.instead
        return [self.score(p, r) for p, r in zip(prompts, responses, strict=True)]


def test_both_kinds_of_judge_give_the_same() -> None:
    many = Many()
    assert isinstance(many, ManyJudge) and not isinstance(Single(), ManyJudge)
    found = score_all(Single(), PROMPTS, ANSWERS)
    assert found == [{"score": 1, "prompt": 3}, {"score": 2, "prompt": 5}, {"score": 3, "prompt": 0}]
    assert all(isinstance(value, float) for scores in found for value in scores.values())
    assert score_all(many, PROMPTS, ANSWERS) == found and many.calls == [3]
    assert score_all(Single(), [], []) == score_all(many, [], []) == []


def test_messages_name_the_prompt() -> None:
    for called_by, called in ((None, "prompt 3"), (["a", "b", "c"], "prompt 'c'")):
        with pytest.raises(UserError, match=f"^{called}: an empty prompt$"):
            score_all(Single(strict=True), PROMPTS, ANSWERS, called_by)
    for judge in (Many(instead=[{"score": 0.0}, {"score": math.inf}, {"score": 0.0}]),):
        with pytest.raises(UserError, match="^prompt 'b': the judge's 'score' is inf, not finite$"):
            score_all(judge, PROMPTS, ANSWERS, ["a", "b", "c"])
    with pytest.raises(UserError, match=r"^prompt 1: the judge gives no 'score', only \['x'\]$"):
        score_all(Many(instead=[{"x": 1.0}] * 3), PROMPTS, ANSWERS)


def test_lists_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="the judge gives 2 scores for 3 responses"):
        score_all(Many(instead=[{"score": 1.0}] * 2), PROMPTS, ANSWERS)
    with pytest.raises(ValueError, match="one response per prompt: got 2 for 3"):
        score_all(Single(), PROMPTS, ANSWERS[:2])
    with pytest.raises(ValueError, match="one name per prompt: got 1 for 3"):
        score_all(Single(), PROMPTS, ANSWERS, ["a"])


class Loads(BatchJudge):
    """Notes that it was loaded."""

    loaded = False

    def ready(self) -> None:
        self.loaded = True

    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        return [{"score": 0.0} for _ in responses]


def test_judges_with_a_model_are_loaded_first() -> None:
    judge = Loads()
    ready(judge)
    assert judge.loaded
    plain: Judge = Single()
    ready(plain)  # nothing to load


def test_the_page_names_every_reward() -> None:
    page = Path(mmalign.rewards.__file__).with_name("README.md").read_text()
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(rows) == names(KINDS["judge"])
    for name, row in zip(rows, (r for r in page.splitlines() if r.startswith("| `")), strict=True):
        gradient = hasattr(class_of(KINDS["judge"], name), "reward")
        assert row.rstrip(" |").endswith("| no") != gradient, name


def test_the_pages_example_is_a_judge() -> None:
    page = Path(mmalign.rewards.__file__).with_name("README.md").read_text()
    section = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["judge"]
    judge = build_named(KINDS["judge"], section, "judge", False)
    assert [part["name"] for part in judge.parts] == ["pick_score", "brightness"]
