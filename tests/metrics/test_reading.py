"""Prediction files: which field of a row is the model's answer, and which is the benchmark's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from metrics.test_amber import amber, judgement
from metrics.test_mvbench import bench as mvbench
from metrics.test_mvbench import row
from metrics.test_pope import write
from metrics.test_tempcompass import YES
from metrics.test_video_mme import metric as video_mme
from metrics.test_video_mme import rows

from mmalign.measuring import measure_answers
from mmalign.metrics._reading import from_one
from mmalign.metrics._seam import Metric
from mmalign.metrics.image_swap import ImageSwap
from mmalign.metrics.pope import Pope
from mmalign.metrics.tempcompass import Tempcompass
from mmalign.types import UserError


def acc(folder: Path, metric: Metric, listed: list[dict[str, Any]]) -> float | None:
    (folder / "given.jsonl").write_text("".join(json.dumps(one) + "\n" for one in listed))
    return measure_answers([folder / "given.jsonl"], [metric])[0].whole.sides["answers"]["acc"].value


def test_a_right_answer_in_the_row_is_not_the_models(tmp_path: Path) -> None:
    """All answers are wrong; the right ones stand beside them under `answer`, or under no other name."""
    assert acc(tmp_path, video_mme(tmp_path, rows()), [one | {"response": "A"} for one in rows()]) == 0
    with pytest.raises(
        UserError, match="given.jsonl row 1: needs the model's answer .*; answer is the bench"
    ):
        acc(tmp_path, video_mme(tmp_path, rows()), rows())
    with pytest.raises(UserError, match="needs the model's answer"):
        acc(tmp_path, video_mme(tmp_path, rows()), [one | {"response": None} for one in rows()])
    (tmp_path / "tasks").mkdir()
    moving = mvbench(tmp_path / "tasks", {"moving": [row("a.mp4")]})
    assert acc(tmp_path, moving, [row("a.mp4") | {"id": "moving/1", "pred": "(B)"}]) == 0
    assert acc(tmp_path, moving, [{"id": "moving/1", "answer": "(A)"}]) == 1


def test_numbers_of_questions_count_from_one(tmp_path: Path) -> None:
    """A whole file that counts from 0 is told from that; of a part of one nothing is guessed."""
    (tmp_path / "tasks").mkdir()
    path = write(tmp_path / "q.jsonl", ["yes", "no"])
    turns = [row("a.mp4"), row("b.mp4", "right")]
    clips: dict[str, Any] = {"speed": [YES, YES | {"answer": "no"}]}
    (tmp_path / "yes_no.json").write_text(json.dumps({"7": clips}))
    cases: list[tuple[Metric, str, list[str]]] = [
        (mvbench(tmp_path / "tasks", {"moving": turns}), "moving/", ["A", "B"]),
        (Tempcompass({"yes_no": str(tmp_path / "yes_no.json")}, "clips"), "yes_no/7/speed/", ["yes", "no"]),
        (Pope(str(path), "."), "", ["yes", "no"]),
        (amber(tmp_path, [judgement(1, "yes"), judgement(2, "no")]), "", ["Yes", "No"]),
    ]
    for metric, head, said in cases:
        for first in (0, 1):
            given = [{"id": f"{head}{first + i}", "text": said[i]} for i in (0, 1)]
            assert acc(tmp_path, metric, given) in (1, 100)
        with pytest.raises(UserError, match=f"given.jsonl: has an id '{head}0', and these ids count from 1"):
            acc(tmp_path, metric, [{"id": f"{head}0", "text": said[0]}])
    swapped = ImageSwap({"name": "pope", "questions": str(path), "images": "."})
    both = {f"{i}{end}": f"no {i}{end}" for end in ("", "#swapped") for i in (0, 1)}
    place = tmp_path / "both.json"
    place.write_text(json.dumps([{"id": name, "text": text} for name, text in both.items()]))
    right = {"1": "no 0", "2": "no 1", "1#swapped": "no 0#swapped", "2#swapped": "no 1#swapped"}
    assert swapped.predictions(place) == right
    for lacking, told in (("1#swapped", "'0'"), ("1", "'0'"), ("0", "'0#swapped'")):
        left = [{"id": name, "text": text} for name, text in both.items() if name != lacking]
        place.write_text(json.dumps(left))
        with pytest.raises(UserError, match=f"has an id {told}, and these ids count from 1.* all 2 answers"):
            swapped.predictions(place)
    from_zero = {"0": "a", "1": "b", "0#swapped": "c"}
    assert from_one(from_zero, ["0", "1"], place) == from_zero


def test_a_question_is_no_answer(tmp_path: Path) -> None:
    """POPE's own rows call the question `text`, as others call an answer."""
    path = write(tmp_path / "q.jsonl", ["yes"] * 4)
    own = [json.loads(line) for line in path.read_text().splitlines()]
    assert acc(tmp_path, Pope(str(path), "."), [one | {"pred": "No"} for one in own]) == 0
    with pytest.raises(UserError, match="text is the benchmark's own"):
        acc(tmp_path, Pope(str(path), "."), own)
    several = [{"question_id": one["question_id"], "text": one["text"], "pred": "No"} for one in own]
    with pytest.raises(UserError, match="row 1: text and pred may each be the model's answer"):
        acc(tmp_path, Pope(str(path), "."), several)
