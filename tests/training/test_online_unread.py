"""A round whose judge writes what cannot be read: those answers count for nothing, and are counted."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from adapters import tiny_lm
from torch import nn

from mmalign.config import from_tree
from mmalign.training._online_sampling import Asked, Sampling
from mmalign.training.judged import check_judges
from mmalign.types import Message, Part, UserError
from mmalign.walks import BranchedPath, Judged

JUDGE = {
    "name": "llm_judge",
    "writer": {"name": "python_function", "function": "writers.own_writers:graded"},
    "template": "{response}",
}


class Counting:
    """Answers with as many words as the seed tells, or with one that gets no verdict."""

    policy, device = nn.Linear(1, 1), torch.device("cpu")

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = answers

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        return [Part("text", answer) for answer in self.answers]

    def check(self, sample: Any, roles: Sequence[str]) -> tuple[str, ...]:
        return ()


def tree(judge: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": {"adapter": "text", "path": "x"},
        "data": {"source": "jsonl", "path": "x"},
        "objective": {"name": "dpo"},
        "train": {"steps": 1, "batch": 2},
        "online": {"judge": judge, "n": 3, "prompts": 2, "steps": 1},
    }


def test_answers_without_a_verdict_are_left_out_and_counted() -> None:
    answers = ["one", "says nothing|", "one two three", "says no|", "refused", "one"]
    sampling = Sampling(from_tree(tree(JUDGE), "test", allow_code=True), Counting(answers), 0)  # type: ignore[arg-type]
    found = sampling.ask([Asked(0, "a", tiny_lm.plain("x")), Asked(1, "b", tiny_lm.plain("y"))])
    (draft,) = found.drafts
    assert draft.answers["chosen"].data == "one two three" and draft.answers["rejected"].data == "one"
    assert found.scores == [1.0, 3.0, 1.0]
    assert +found.left_out == {
        "answers on which the judge's verdict could not be read": 3,
        "prompts with fewer than two answers": 1,
    }


def test_a_judge_that_wants_more_is_refused_before_the_run() -> None:
    config = from_tree(tree(JUDGE | {"template": "{reference} {response}"}), "test", allow_code=True)
    with pytest.raises(UserError, match="online.judge: llm_judge wants the reference of every prompt"):
        check_judges(config, frozenset({"text"}))


class Branching(Counting):
    """Branches once per prompt: into answers that the judge is shown as they come."""

    def branch_paths(
        self,
        model: nn.Module,
        prompts: Sequence[tuple[Message, ...]],
        seeds: Sequence[int],
        branches: tuple[int, int],
        judged: Judged,
    ) -> list[BranchedPath]:
        count = branches[0]
        scores = judged([Part("text", one) for one in self.answers], [0] * count + [1] * count, 7)
        assert [math.isnan(one) for one in scores] == ["says" in one for one in self.answers]
        rest = [[one for one in own if one == one] for own in (scores[:count], scores[count:])]
        return [BranchedPath({}, {}, (max(own, default=0.0),), Part("text", "done")) for own in rest]


def test_branches_without_a_verdict_are_counted_and_prompts_without_any_are_left_out() -> None:
    answers = ["one", "says nothing|", "one two three", "says no|", "says nothing|", "says no|"]
    wanted = tree(JUDGE) | {"objective": {"name": "spo"}, "model": {"adapter": "diffusion", "path": "x"}}
    sampling = Sampling(from_tree(wanted, "test", allow_code=True), Branching(answers), 0)  # type: ignore[arg-type]
    found = sampling.ask([Asked(0, "a", tiny_lm.plain("x")), Asked(1, "b", tiny_lm.plain("y"))])
    (draft,) = found.drafts
    assert draft.prompt == "a" and draft.labels == {"step_margins": [3.0]} and found.scores == [1.0, 3.0]
    assert +found.left_out == {
        "answers on which the judge's verdict could not be read": 4,
        "prompts on none of whose branches a verdict could be read": 1,
    }
