"""MVBench: one accuracy per task, unread answers left out, parts of videos refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmalign.metrics._resampling import figures
from mmalign.metrics.mvbench import Mvbench
from mmalign.types import UserError


def bench(
    folder: Path, tasks: dict[str, list[dict[str, Any]]], videos: Any = "videos", **options: Any
) -> Mvbench:
    for task, rows in tasks.items():
        (folder / f"{task}.json").write_text(json.dumps(rows))
    return Mvbench(str(folder), videos, **options)


def row(video: str, answer: str = "left", **more: Any) -> dict[str, Any]:
    return {
        "video": video,
        "question": "Which way?",
        "candidates": ["left", "right"],
        "answer": answer,
        **more,
    }


def test_means_of_tasks_without_unread_answers(tmp_path: Path) -> None:
    metric = bench(
        tmp_path, {"moving": [row("a.mp4"), row("b.mp4"), row("c.mp4", "right")], "order": [row("a.mp4")]}
    )
    answers = {"moving/1": "(A)", "moving/2": "B", "moving/3": "dunno", "order/1": "right"}
    items = metric.grade(answers)
    found = figures(metric, items)
    assert found["acc"].value == pytest.approx(1 / 3) and found["unanswered"].value == 0.25
    assert found["macro"].value == 0.25  # 1 of 2, and 0 of 1
    assert [item.groups["task"] for item in items] == [("moving",)] * 3 + [("order",)]
    assert (
        metric.ask()[0].turns[0].parts[1].data == "Which way?\nA. left\nB. right\nAnswer with a letter alone."
    )


def test_folders_by_task(tmp_path: Path) -> None:
    metric = bench(tmp_path, {"moving": [row("a.mp4")]}, {"moving": "clips/moving"})
    assert metric.ask()[0].turns[0].parts[0].data.root.endswith("clips/moving")
    with pytest.raises(UserError, match="videos has no folder for task moving"):
        bench(tmp_path, {}, {"order": "x"}).ask()


def test_parts_of_videos(tmp_path: Path) -> None:
    tasks = {"moving": [row("a.mp4", start=1.5, end=3.0)]}
    with pytest.raises(UserError, match="moving.json row 1: is about a part of its video"):
        bench(tmp_path, tasks).ask()
    assert len(bench(tmp_path, tasks, bounds="ignore").ask()) == 1


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no task's .json file"):
        bench(tmp_path, {}).ask()
    with pytest.raises(UserError, match="answer must be one of the candidates, got 'up'"):
        bench(tmp_path, {"moving": [row("a.mp4", "up")]}).ask()
