"""LLaVA-style rows: markers in plain prompts, lists of pictures, videos, two whole conversations."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import LLAVA, answer_of, changed, prompt_of, read_rows


@pytest.mark.parametrize("image", ["a.png", ["a.png"]])
def test_a_marker_is_the_picture_and_the_prompt_a_turn(tmp_path: Path, image: Any) -> None:
    data = read_rows(tmp_path, {**LLAVA, "image": image})
    (sample,) = data.samples
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "\nWhat is it?")]
    assert [answer_of(sample, role) for role in ("chosen", "rejected")] == ["A cat.", "A dog."]
    assert data.report.lines()[0].endswith("read as llava rows (image, prompt, chosen, rejected)")


def test_several_pictures_and_a_video(tmp_path: Path) -> None:
    row = {**LLAVA, "image": ["a.png", "b.png"], "video": "v.mp4", "prompt": "<video>1 <image>2<image>"}
    (sample,) = read_rows(tmp_path, row).samples
    assert prompt_of(sample, "rejected") == [
        ("user", "video:v.mp4", "1 ", "image:a.png", "2", "image:b.png"),
    ]


def test_two_conversations(tmp_path: Path) -> None:
    asked = {"from": "human", "value": "<image>\nWhat is it?"}
    row = {
        "id": "7",
        "image": "a.png",
        "conversations": [asked, {"from": "gpt", "value": "A cat."}],
        "rejected_conversations": [asked, {"from": "gpt", "value": "A dog."}],
    }
    data = read_rows(tmp_path, row)
    (sample,) = data.samples
    assert data.report.formats == {"llava": 1} and sample.id == "7"
    assert sample.examples == read_rows(tmp_path, LLAVA).samples[0].examples


def test_without_a_marker_the_named_format_puts_the_picture_first(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, changed(LLAVA, prompt="What?"), format="llava").samples
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "What?")]


def test_a_marker_beside_a_list_called_images_is_its_place(tmp_path: Path) -> None:
    data = read_rows(tmp_path, changed(LLAVA, image=..., images=["a.png"]))
    assert data.report.formats == {"canonical": 1}
    assert prompt_of(data.samples[0], "chosen") == [("text", "image:a.png", "\nWhat is it?")]


def test_both_spellings_of_a_place(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "image": ["a.png", "b.png"],
        "prompt": "Image1:<image-placeholder>\nImage2:<image>\nIn Image2, what is it?",
        "chosen": "A cat.",
        "rejected": "A dog.",
        "gt": "A cat.",
    }
    data = read_rows(tmp_path, row, {**row, "id": "2", "prompt": "<image-placeholder> <image-placeholder>?"})
    first, second = data.samples
    assert data.report.formats == {"llava": 2} and data.report.unknown_columns == {"gt": 2}
    assert prompt_of(first, "chosen") == [
        ("user", "Image1:", "image:a.png", "\nImage2:", "image:b.png", "\nIn Image2, what is it?")
    ]
    assert prompt_of(second, "rejected") == [("user", "image:a.png", " ", "image:b.png", "?")]
