"""LLaVA-Hound: captions found by row or clip, answers that pass against those that do not, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders.groups import Numbers, group

from mmalign.builders._candidates import Asked, Made, Paired
from mmalign.builders.llava_hound import ALL_PASS, NONE_PASSES, UNREAD, LlavaHound
from mmalign.data._paths import File
from mmalign.rewards.llm_judge import LlmJudge
from mmalign.shapes.grader import grade
from mmalign.types import Message, Part, UserError

WRITER = {"name": "python_function", "function": "writers.own_writers:graded"}
CAPTIONED = LlmJudge(WRITER, template="{caption} {response}", high=100.0)


def made(*answers: str, **fields: Any) -> Paired:
    (paired,) = LlavaHound(**fields).pair([group(*answers)], Numbers(), 0)
    return paired


def test_what_passes_meets_what_does_not() -> None:
    assert made("3", "5", "2", "1").pairs == (Made(1, 3, 4.0),)
    every = made("3", "5", "2", "1", pairs="all").pairs
    assert {(one.chosen, one.rejected) for one in every} == {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert made("2.9", "3").pairs == (Made(1, 0, pytest.approx(0.1)),)  # the mark itself passes
    assert made("4", "3").counts == {ALL_PASS: 1} and made("1", "2").counts == {NONE_PASSES: 1}
    assert made("4", "3", pass_mark=3.5).pairs == (Made(0, 1, 1.0),)


def test_verdicts_that_cannot_be_read_are_left_out() -> None:
    whole = group("says no|", "a b c", "a")
    (paired,) = LlavaHound().pair([whole], LlmJudge(WRITER, template="{response}", high=100.0), 0)
    assert paired.pairs == (Made(1, 2, 2.0),) and paired.counts == {UNREAD: 1}


def test_no_answers_are_no_reason_to_refuse() -> None:
    """As of prompts to which the model says the same each time; the judge wants captions, of which none are
    told."""
    assert LlavaHound().pair([], CAPTIONED, 0) == []


def row(name: str, video: str, answer: str = "she waves") -> Asked:
    turns = (Message("user", (Part("video", File("root", video)), Part("text", "what?"))),)
    return Asked(name, turns, (Part("text", answer),) if answer else ())


def test_captions_are_found_by_row_and_by_clip(tmp_path: Path) -> None:
    listed = [
        {"id": 17, "caption": " a man "},
        {"video": "v/clip-3.mp4", "caption": "a dog"},
        {"video": "clip-4", "caption": "a cat"},
    ]
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, listed)) + "\n\n")
    builder = LlavaHound(captions=str(path))
    assert builder.told(row("17", "clip-3.mp4")) == {"reference": "she waves", "caption": "a man"}
    for name in ("clip-3.webm", "v/clip-3.mp4", "all\\v\\clip-3.mov"):
        assert builder.told(row("x", name))["caption"] == "a dog"
    assert "caption" not in builder.told(row("x", "other/clip-3.mp4")), "another clip of that name"
    assert builder.told(row("x", "clip-4", answer="")) == {"caption": "a cat"}
    assert "caption" not in builder.told(row("x", "clip-5.mp4"))
    assert LlavaHound().told(row("x", "y")) == {"reference": "she waves", "caption": "she waves"}
    assert LlavaHound().reads_answers(CAPTIONED) and not builder.reads_answers(CAPTIONED)


def test_clips_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    names = {
        "train/1.mp4": "a dog",
        "val/1.mp4": "a cat",
        "1.5": "a man",
        "2.mp4": "a fox",
        "2.webm": "an elk",
    }
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(json.dumps({"video": name, "caption": own}) for name, own in names.items()))
    builder = LlavaHound(captions=str(path))
    for name, caption in [*names.items(), ("val/1", "a cat"), ("1.5.mp4", "a man"), ("x/val/1.mov", "a cat")]:
        assert builder.told(row("x", name))["caption"] == caption, name
    assert "caption" not in builder.told(row("x", "1.25"))
    with pytest.raises(
        UserError, match="^x: video '1.mp4' may be 'train/1.mp4' or 'val/1.mp4' of .*; name it"
    ):
        builder.told(row("x", "1.mp4"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ('{"video": "/", "caption": "a"}', "line 1: video must say what the caption is of, got '/'"),
        ("{", "line 1: is no JSON"),
        ("[1]", "line 1: must be an object"),
        ('{"id": "a"}', "line 1: caption must be a text, got None"),
        ('{"caption": "a"}', "line 1: id or video must say"),
        ('{"id": "a", "caption": "a"}\n{"id": "a", "caption": "b"}', "line 2: another caption of 'a'"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        LlavaHound(captions=str(path)).ready(CAPTIONED)


def test_bad_settings_and_judges_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="builder.captions: cannot read gone.jsonl"):
        LlavaHound(captions="gone.jsonl").ready(CAPTIONED)
    with pytest.raises(UserError, match=r"put \{caption\} into its template"):
        LlavaHound().ready(LlmJudge(WRITER))
    for fields, words in (({"n": 1}, "n: must be 2 or more"), ({"captions": " "}, "captions: must name")):
        with pytest.raises(ValueError, match=words):
            LlavaHound(**fields)  # type: ignore[arg-type]


def test_the_grader_of_the_built_in_world() -> None:
    def asked(caption: str, answer: str) -> str | None:
        text = f"x\nCaption: {caption}\nQuestion: q\nAnswer: {answer}\nEnd with"
        return grade((Message("user", (Part("text", text),)),), 0)

    marks = [
        asked("the green star", a) for a in ("The green star.", "the green star, up", "the red star", "no")
    ]
    assert [mark and mark[-1] for mark in marks] == ["5", "3", "2", "1"]
    assert grade((Message("user", (Part("text", "Answer: x"),)),), 0) is None
