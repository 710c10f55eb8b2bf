"""Video-MME: the first letter after a lead phrase, of the answered questions, in percent."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmalign.metrics._resampling import figures
from mmalign.metrics.video_mme import VideoMme
from mmalign.types import UserError


def rows(count: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "videoID": f"v{i // 2}", "question_id": f"{i}-1", "question": "What happens?", "answer": "B",
            "options": ["A. Rain", "B. Sun", "C. Snow", "D. Fog"], "duration": ["short", "long"][i % 2],
            "domain": "Life", "task_type": "Counting",
        }
        for i in range(count)
    ]  # fmt: skip


def metric(folder: Path, listed: list[dict[str, Any]], **options: Any) -> VideoMme:
    (folder / "q.json").write_text(json.dumps(listed))
    return VideoMme(str(folder / "q.json"), "videos", **options)


def test_answered_questions_alone_count(tmp_path: Path) -> None:
    bench = metric(tmp_path, rows())
    items = bench.grade({"0-1": "The best answer is: B", "1-1": "B. Sun", "2-1": "C", "3-1": "no idea"})
    found = figures(bench, items)
    assert found["acc"].value == pytest.approx(100 * 2 / 3) and found["unanswered"].value == 25
    assert items[0].groups["duration"] == ("short",) and items[1].cluster == "v0"


@pytest.mark.parametrize(
    ("answer", "said"),
    [("B", "B"), ("(B)", "B"), ("The answer is D.", "D"), ("Sun", None), ("A or B", "A"), ("", None)],
)
def test_the_first_letter_counts(answer: str, said: str | None, tmp_path: Path) -> None:
    bench = metric(tmp_path, rows(1))
    assert bench.said(bench.items["0-1"], answer) == said


def test_the_nested_form_and_subtitles(tmp_path: Path) -> None:
    one, *_ = rows(1)
    inner = {key: one.pop(key) for key in ("question_id", "question", "options", "answer", "task_type")}
    (tmp_path / "v0.srt").write_text(
        "1\n00:00:01,000 --> 00:00:02,000\n<i>Hello</i> there\n\n2\n00:03 --> 00:04\nagain\n"
    )
    bench = metric(tmp_path, [{**one, "questions": [inner]}], subtitles=str(tmp_path))
    (question,) = bench.ask()
    video, text = question.turns[0].parts
    assert (video.kind, video.data.name) == ("video", "v0.mp4")
    assert text.data.startswith("Subtitles of the video: Hello there again\nWhat happens?\nA. Rain\nB. Sun\n")
    short = metric(tmp_path, [{**one, "questions": [inner]}], subtitles=str(tmp_path), subtitle_words=1)
    assert short.ask()[0].turns[0].parts[1].data.startswith("Subtitles of the video: Hello\n")


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 1: answer must be a letter of one of the 4 options"):
        metric(tmp_path, [rows(1)[0] | {"answer": "F"}]).ask()
    with pytest.raises(UserError, match="row 1, question 1: must be an object"):
        metric(tmp_path, [{"videoID": "v", "questions": [3]}]).ask()
