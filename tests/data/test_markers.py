"""Markers in the text of canonical rows: places where the row has media, text where it has none."""

from pathlib import Path
from typing import Any

import pytest

from mmalign.data._records import read_record
from mmalign.types import UserError


def parts(**row: Any) -> list[str]:
    record = read_record({"chosen": "yes", "rejected": "no", **row}, "rows.jsonl row 3", 3, str(Path.cwd()))
    prompt = record.sample.examples["chosen"][0].prompt
    return [p.data if p.kind == "text" else f"{p.kind}:{p.data.name}" for m in prompt for p in m.parts]


def test_media_stand_where_the_text_says() -> None:
    assert parts(prompt="<image>\nWhat?", images=["a.png"]) == ["image:a.png", "\nWhat?"]
    assert parts(prompt="A <image> or <image>?", images=["a.png", "b.png"]) == [
        "A ",
        "image:a.png",
        " or ",
        "image:b.png",
        "?",
    ]
    turns = [{"role": "user", "content": "See <video> first."}]
    assert parts(prompt=turns, videos=["c.mp4"]) == ["See ", "video:c.mp4", " first."]


def test_without_markers_media_stand_in_front() -> None:
    assert parts(prompt="What?", images=["a.png"]) == ["image:a.png", "What?"]


def test_text_alone_may_hold_a_marker() -> None:
    assert parts(prompt="In HTML, what is <image>?") == ["In HTML, what is <image>?"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "<image><image> What?", "images": ["a.png"]}, "1 images for 2 image places"),
        ({"prompt": "<image> What?", "images": ["a.png", "b.png"]}, "2 images for 1 image places"),
        ({"prompt": "<video> What?", "images": ["a.png"]}, "1 images for 0 image places"),
        (
            {
                "prompt": [
                    {
                        "role": "user",
                        "content": [{"type": "image"}, {"type": "text", "text": "<image> What?"}],
                    }
                ],
                "images": ["a.png"],
            },
            "holds a marker such as <image> as text beside parts for media",
        ),
    ],
)
def test_counts_that_differ_are_refused(row: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"rows.jsonl row 3.*{words}"):
        parts(**row)


def test_misspelt_columns_are_named(tmp_path: Path) -> None:
    from mmalign.data._sources import load
    from mmalign.data.jsonl import Jsonl

    with pytest.raises(UserError, match="'rejected': is missing; did you mean the column 'rejectd'"):
        read_record({"prompt": "x", "chosen": "yes", "rejectd": "no"}, "row 1", 1, ".")
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "x", "imges": ["a.png"], "chosen": "yes", "rejected": "no", "other": 1}\n')
    lines = load(Jsonl(path=str(file))).report.lines()
    assert any(
        "columns not used: imges 1, other 1; is 'imges' meant to be 'images'?" in line for line in lines
    )
