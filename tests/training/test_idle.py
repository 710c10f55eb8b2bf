"""Runs that learn nothing: said once, after ten lines or at the end, with the field that is at fault."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_runs import Bench
from training.test_online import config_of

from mmalign._online import Online
from mmalign.blind.answers import Blind
from mmalign.training.idle import LINES, Idle
from mmalign.training.run import run


def idle(objective: Any = None, online: Any = None) -> Idle:
    config: Any = SimpleNamespace(objective=objective or SimpleNamespace(), online=online)
    return Idle(config)


def said(watch: Idle, values: dict[str, float], count: int = 30) -> list[tuple[int, str]]:
    found = [(line, watch.see(values)) for line in range(1, count + 1)]
    return [(line, words) for line, words in found if words is not None]


def test_spo_that_keeps_no_step_names_its_threshold() -> None:
    values = {"loss": 0.0, "grad_norm": 0.0, "steps_kept": 0.0}
    ((line, words),) = said(idle(SimpleNamespace(threshold=0.3), online=Online()), values)
    assert line == LINES == 10
    assert words.startswith("steps_kept is exactly 0 in all 10 lines")
    assert words.endswith("is above objective.threshold (0.3); lower it")


@pytest.mark.parametrize(
    ("values", "online", "words"),
    [
        ({"loss": 0.0, "grad_norm": 0.0}, Online(), "look at online.judge"),
        (
            {"loss": 0.0, "grad_norm": 0.0},
            Online(offline=1.0, blind=Blind()),
            "look at the objective's margin",
        ),
        ({"loss": 0.0, "grad_norm": 0.0}, None, "look at the objective's margin and beta"),
        ({"loss": 0.7, "grad_norm": 0.0}, None, "look at lora.targets"),
    ],
)
def test_the_likely_field(values: dict[str, float], online: Any, words: str) -> None:
    ((_, line),) = said(idle(online=online), values)
    assert words in line


def test_one_line_that_moves_is_enough() -> None:
    watch = idle()
    assert watch.see({"loss": 0.1, "grad_norm": 1e-9}) is None
    assert said(watch, {"loss": 0.0, "grad_norm": 0.0}) == []


def test_a_short_run_is_told_at_its_end() -> None:
    watch, still = idle(), {"loss": 0.0, "grad_norm": 0.0}
    assert [watch.see(still), watch.see(still)] == [None, None]
    line = watch.see(still, last=True)
    assert line is not None and "in all 3 lines" in line


def test_a_run_without_such_a_figure_is_not_told_of_it() -> None:
    assert said(idle(), {"loss": 0.6931, "grad_norm": 0.1}) == []
    assert said(idle(), {"loss": 0.0, "grad_norm": 0.1}) == []  # advantages that sum to 0 still teach


def test_a_run_says_so_at_once_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two pictures never differ by so much brightness that a threshold of 0.99 is passed."""
    objective = {"name": "spo", "threshold": 0.99}
    sections: dict[str, Any] = {"objective": objective, "online": {"prompts": 4, "steps": 1}}
    output = run(config_of(Bench(tmp_path), "spo", "still", steps=1, **sections))
    (note,) = (n for n in json.loads((output / "run.json").read_text())["notes"] if "steps_kept" in n)
    assert note.startswith("warning: steps_kept is exactly 0") and "objective.threshold (0.99)" in note
    assert note in capsys.readouterr().err
