"""Judges that read none of what the model answers with are refused with the config, before rows are read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmalign.config import RunConfig, from_tree
from mmalign.training.checks import check_config
from mmalign.training.judged import check_judges
from mmalign.types import UserError

IMAGE, STORY = "mmalign.shapes.judges:ImageJudge", "mmalign.shapes.judges:StoryJudge"


def config(adapter: str, judge: Any, **sections: Any) -> RunConfig:
    tree = {
        "model": {"adapter": adapter, "path": "model"},
        "data": {"source": "jsonl", "path": "pairs.jsonl"},
        "objective": {"name": "dpo", "beta": 500.0},
        "train": {"steps": 2, "batch": 2, "lr": 1e-4},
        "evaluation": {"judge": judge},
        "output": str(Path("run")),
        **sections,
    }
    return from_tree(tree, "test", allow_code=True)


@pytest.mark.parametrize(
    ("adapter", "judge", "words"),
    [
        (
            "text",
            "brightness",
            r"^evaluation\.judge: brightness reads pictures and clips, and .* makes texts",
        ),
        ("diffusion", STORY, r"^evaluation\.judge: .*StoryJudge reads texts, .* pictures or clips; use aes"),
        ("diffusion", [IMAGE, STORY], r"^evaluation\.judge\[1\]: .*StoryJudge reads texts"),
    ],
)
def test_judges_of_the_evaluation(adapter: str, judge: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_config(config(adapter, judge))


def test_judges_of_rounds() -> None:
    online = {"judge": STORY, "prompts": 4, "n": 2, "steps": 2}
    made = config("diffusion", None, online=online)
    with pytest.raises(UserError, match=r"^online\.judge: .*StoryJudge reads texts"):
        check_judges(made, frozenset({"image"}))


def test_judges_that_fit() -> None:
    check_config(config("diffusion", ["brightness", IMAGE]))
    check_config(config("text", STORY))
    made = config("diffusion", IMAGE)
    with pytest.raises(UserError, match="reads pictures, and this model makes clips"):
        check_judges(made, frozenset({"video"}))  # what the pipeline's folder says, after it is loaded
    check_judges(replace(made, evaluation=config("diffusion", "brightness").evaluation), frozenset({"video"}))


def test_benchmarks_are_answered_in_words() -> None:
    metrics = ["mmalign.shapes.metrics:Chair"]
    with pytest.raises(UserError, match=r"^evaluation\.metrics: benchmarks grade answers in words"):
        check_config(config("diffusion", None, evaluation={"metrics": metrics}))
    check_config(config("vlm", None, objective={"name": "dpo"}, evaluation={"metrics": metrics}))
