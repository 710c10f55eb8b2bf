"""MVBench: one accuracy per task, empty answers left out, parts of videos cut out."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from mmalign.clips import Frames
from mmalign.data._digest import digest
from mmalign.data._prompts import decode_prompts
from mmalign.metrics._measured import measured
from mmalign.metrics._resampling import figures
from mmalign.metrics.frame_shuffle import FrameShuffle
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


def test_means_of_tasks_without_empty_answers(tmp_path: Path) -> None:
    metric = bench(
        tmp_path, {"moving": [row("a.mp4"), row("b.mp4"), row("c.mp4", "right")], "order": [row("a.mp4")]}
    )
    answers = {"moving/1": "(A)", "moving/2": "B", "moving/3": " ", "order/1": "right"}
    items = metric.grade(answers)
    found = figures(metric, items)
    assert found["acc"].value == pytest.approx(1 / 3) and found["unanswered"].value == 0.25
    assert found["macro"].value == 0.25  # 1 of 2, and 0 of 1
    assert [item.groups["task"] for item in items] == [("moving",)] * 3 + [("order",)]
    assert (
        metric.ask()[0].turns[0].parts[1].data == "Which way?\nA. left\nB. right\nAnswer with a letter alone."
    )


def test_what_cannot_be_read_is_wrong(tmp_path: Path) -> None:
    """One right answer among ten that choose nothing, or what is no choice, is no accuracy of 1."""
    metric = bench(tmp_path, {"moving": [row("a.mp4")] * 10})
    for unread in ("The clip shows a man.", "A or B", "C"):
        answers = {f"moving/{i}": unread for i in range(2, 11)}
        found = figures(metric, metric.grade({"moving/1": "A", **answers}))
        assert (found["acc"].value, found["macro"].value, found["unanswered"].value) == (0.1, 0.1, 0.9)


def test_tasks_without_an_answer_are_named(tmp_path: Path) -> None:
    metric = bench(tmp_path, {name: [row(f"{name}.mp4")] * 2 for name in ("moving", "order", "pose")})
    said = {"moving": "A", "order": "", "pose": "\n"}
    answers = {one.id: said[one.id.partition("/")[0]] for one in metric.ask()}
    found = measured(metric, "mvbench", {"answers": metric.grade(answers)})
    assert found.whole.sides["answers"]["macro"].value == 1
    assert found.notes == ("answers: macro leaves out order, pose: no answer there counts",)
    read = metric.grade(dict.fromkeys(answers, "A"))
    assert measured(metric, "mvbench", {"base": read, "tuned": read}).notes == ()
    control = FrameShuffle({"name": "mvbench", "questions": str(tmp_path), "videos": "videos"})
    graded = control.grade(
        {**dict.fromkeys(answers, "A"), **{f"{k}#shuffled": v for k, v in answers.items()}}
    )
    told = "tuned: shuffled: macro leaves out order, pose: no answer there counts"
    assert measured(control, "shuffled", {"tuned": graded}).notes == (told,)


def test_folders_by_task(tmp_path: Path) -> None:
    metric = bench(tmp_path, {"moving": [row("a.mp4")]}, {"moving": "clips/moving"})
    assert metric.ask()[0].turns[0].parts[0].data.root.endswith("clips/moving")
    with pytest.raises(UserError, match="videos has no folder for task moving"):
        bench(tmp_path, {}, {"order": "x"}).ask()


def test_parts_of_videos(tmp_path: Path) -> None:
    """Eight frames a second: the part from 1.5 to 3 s is frames 12 to 24: its ends and its middle."""
    tasks = {"moving": [row("a.mp4", start=1.5, end=3.0), row("a.mp4"), row("a.mp4", start=9, end=10)]}
    write_video(tmp_path / "a.mp4", [grey(8 * i, 32) for i in range(32)], rate=8)
    metric = bench(tmp_path, tasks, str(tmp_path))
    shown = [(one.id, one.turns) for one in metric.ask()]
    assert len({digest(turns) for _, turns in shown}) == 3, "answers are kept apart"
    part, whole = (turns[0].parts[0].data for _, turns in decode_prompts(shown[:2], Frames(count=3)))
    assert part.indices == (0, 6, 12) and part.total == 13
    assert part.seconds == pytest.approx((0, 0.75, 1.5)) and whole.indices == (0, 15, 31)
    levels = part.frames.float().mean((1, 2, 3)).tolist()
    assert levels == pytest.approx([8 * 12, 8 * 18, 8 * 24], abs=6)
    with pytest.raises(UserError, match="its part starts at 9 s, and it has 4.0 s"):
        decode_prompts(shown[2:], Frames(count=3))
    plain = bench(tmp_path, tasks, str(tmp_path), bounds="ignore").ask()
    assert digest(plain[0].turns[0].parts[0]) == digest(plain[1].turns[0].parts[0])


def test_parts_of_folders_of_frames(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for place in range(12):
        Image.fromarray(grey(20 * place, 16)).save(tmp_path / "clip" / f"{place}.png")
    metric = bench(tmp_path, {"episodes": [row("clip", start=1, end=2.0)]}, str(tmp_path))
    ((_, turns),) = decode_prompts([(one.id, one.turns) for one in metric.ask()], Frames(count=8))
    clip = turns[0].parts[0].data
    assert clip.indices == (0, 1, 2, 3) and clip.seconds == pytest.approx((0, 1 / 3, 2 / 3, 1))
    assert clip.frames[:, 0, 0, 0].tolist() == [60, 80, 100, 120]


def grey(level: int, side: int) -> np.ndarray:
    return np.full((side, side, 3), level, dtype=np.uint8)


def write_video(path: Path, frames: list[np.ndarray], rate: int) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no task's .json file"):
        bench(tmp_path, {}).ask()
    with pytest.raises(UserError, match="answer must be one of the candidates, got 'up'"):
        bench(tmp_path, {"moving": [row("a.mp4", "up")]}).ask()
    for odd, words in (
        ({"start": 3, "end": 2}, "end must be above start, got 2 and 3"),
        ({"start": "1:30"}, "start must be seconds"),
    ):
        with pytest.raises(UserError, match=words):
            bench(tmp_path, {"moving": [row("a.mp4", **odd)]}).ask()
    with pytest.raises(ValueError, match="^frame_rate: must be above 0"):
        bench(tmp_path, {}, frame_rate=0.0)
