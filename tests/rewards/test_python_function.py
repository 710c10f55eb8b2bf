"""A user's own function as a judge: numbers, names, batches, permission, and refusals."""

from typing import Any

import pytest
from rewards import own_scores
from rewards.tiny_clip import picture, said, shown

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.config import from_tree
from mmalign.rewards._scoring import score_all
from mmalign.rewards.python_function import PythonFunction
from mmalign.types import Message, Part, UserError


def asked(name: str, answers: list[str], batch: int = 32) -> list[Any]:
    judge = PythonFunction(f"rewards.own_scores:{name}", batch)
    return judge.score_many([said("why")] * len(answers), [Part("text", a) for a in answers])


def test_numbers_and_named_numbers() -> None:
    assert asked("length", ["because", "no"]) == [{"score": 4.0}, {"score": -1.0}]
    assert asked("letters", ["aab"]) == [{"a": 2.0, "b": 1.0, "score": 1.0}]
    assert asked("length", []) == []


def test_the_prompt_is_its_texts_and_the_response_what_it_holds() -> None:
    judge = PythonFunction("rewards.own_scores:length")
    prompt = (Message("user", (Part("text", "a"), Part("image", picture(0)), Part("text", "b"))),)
    assert judge.score(prompt, Part("text", "abcd")) == {"score": 1.0}  # "a b"
    with pytest.raises(
        UserError, match="judge python_function rewards.own_scores:length raised TypeError: ob"
    ):
        judge.score(prompt, shown(picture(0)))


def test_batches() -> None:
    own_scores.CALLS.clear()
    assert len(asked("counted", ["x"] * 5, batch=2)) == 5
    assert own_scores.CALLS == [2, 2, 1]


def test_what_is_no_score_is_one_line() -> None:
    for name, answers, message in [
        ("too_few", ["x", "y"], "own_scores:too_few: gives 1 scores for 2 responses"),
        ("words", ["x"], "own_scores:words: response 1: must be numbers, got 'good'"),
        ("nothing", ["x"], "rewards.own_scores has no nothing"),
        ("TABLE", ["x"], "must be a function, is dict"),
        ("one_number", ["x"], "own_scores:one_number: must give a list, got 1.0"),
    ]:
        with pytest.raises(UserError, match=message):
            asked(name, answers)
    with pytest.raises(UserError, match="python_function: no.where:f: no module named no"):
        PythonFunction("no.where:f").ready()
    with pytest.raises(
        UserError, match=r"own_scores:one_text: must be f\(prompts, responses\) -> .*is one_text"
    ):
        PythonFunction("rewards.own_scores:one_text").ready()
    for wrong in ("f", "a.b", "a-b:c", "a:b.c", ""):
        with pytest.raises(ValueError, match="function: must be package.module:function"):
            PythonFunction(wrong)


def test_code_needs_permission() -> None:
    section = {"name": "python_function", "function": "rewards.own_scores:length"}
    assert build_named(KINDS["judge"], section, "judge", True) == PythonFunction("rewards.own_scores:length")
    with pytest.raises(UserError, match="judge.function: rewards.own_scores:length would import code from"):
        build_named(KINDS["judge"], section, "judge", False)
    tree = {
        "model": {"adapter": "text", "path": "x"},
        "data": {"source": "jsonl", "path": "x"},
        "objective": {"name": "sft"},
        "train": {"steps": 1},
        "evaluation": {"judge": section},
    }
    with pytest.raises(UserError, match="would import code from outside mmalign"):
        from_tree(tree, "config.yaml")
    assert from_tree(tree, "config.yaml", allow_code=True)


def test_a_function_without_a_total_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def partial(prompts: list[str], responses: list[str]) -> list[dict[str, float]]:
        return [{"a": 1.0} for _ in responses]

    monkeypatch.setattr(own_scores, "partial", partial, raising=False)
    with pytest.raises(UserError, match="prompt 1: the judge gives no 'score', only"):
        score_all(PythonFunction("rewards.own_scores:partial"), [said("")], [Part("text", "x")])
