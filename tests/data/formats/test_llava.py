"""LLaVA-style rows: markers in plain prompts, lists of pictures, videos, two whole conversations."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import LLAVA, answer_of, changed, prompt_of, read_rows

from mmalign.types import UserError


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


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def conversations(chosen: list[dict[str, str]], rejected: list[dict[str, str]]) -> dict[str, Any]:
    return {"image": "a.png", "conversations": chosen, "rejected_conversations": rejected}


def test_several_turns_may_differ_in_the_last_alone(tmp_path: Path) -> None:
    shared = ("<image>\nWho?", "A cat.", "Where?")
    (sample,) = read_rows(tmp_path, conversations(turns(*shared, "Here."), turns(*shared, "There."))).samples
    assert prompt_of(sample, "chosen") == prompt_of(sample, "rejected")
    assert prompt_of(sample, "chosen")[1:] == [("assistant", "A cat."), ("user", "Where?")]
    assert [answer_of(sample, role) for role in ("chosen", "rejected")] == ["Here.", "There."]


@pytest.mark.parametrize(
    ("other", "turn"),
    [
        (("<image>\nWho?", "A dog.", "Where?", "There."), 2),
        (("<image>\nWho?", "A cat.", "Why?", "There."), 3),
        (("<image>\nWhat?", "A cat.", "Where?", "There."), 1),
        (("<image>\nWho?", "A dog."), 2),
    ],
)
def test_turns_of_their_own_are_refused_and_counted(
    other: tuple[str, ...], turn: int, tmp_path: Path
) -> None:
    row = conversations(turns("<image>\nWho?", "A cat.", "Where?", "Here."), turns(*other))
    rule = (
        f"row 1, field 'rejected_conversations': turn {turn} is not that of conversations; the last answers"
    )
    with pytest.raises(UserError, match=rule) as caught:
        read_rows(tmp_path, row)
    assert "\n" not in str(caught.value)
    left = read_rows(tmp_path, row, LLAVA, on_error="skip")
    assert len(left.samples) == 1
    assert any("1 broken rows left out" in line and rule in line for line in left.report.lines())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<image>\nWho?", "Who?"),
        ("Who?", "<image>\nWho?"),
        ("<image>\nWho?", "Who?\n<image>"),
        ("<image>\nWho?", " <image> Who?\n"),
        ("<image>\nWho?", "Who?<image>"),
    ],
)
def test_sides_that_differ_in_the_place_of_the_picture_alone(one: str, other: str, tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, conversations(turns(one, "A cat."), turns(other, "A dog."))).samples
    assert prompt_of(sample, "chosen") == prompt_of(sample, "rejected")
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "\nWho?")]


@pytest.mark.parametrize("asked", ["Who?\n<image>", "<image>Who?", "Who?<image>", "<image>\nWho?"])
def test_a_single_picture_of_a_conversation_comes_first(asked: str, tmp_path: Path) -> None:
    """Wherever its turn has it: a model of the LLaVA kind was trained with the picture in front."""
    said = (asked, "A cat.", "Where?")
    row = conversations(turns(*said, "There."), turns(*said, "Here."))
    (sample,) = read_rows(tmp_path, row).samples
    first, *later = prompt_of(sample, "chosen")
    assert first == ("user", "image:a.png", "\nWho?")
    assert later == [("assistant", "A cat."), ("user", "Where?")]


def test_several_pictures_have_one_order(tmp_path: Path) -> None:
    marked = "1: <image> 2: <image> Who?"
    row = {**conversations(turns(marked, "a"), turns("1: 2: Who?", "b")), "image": ["a.png", "b.png"]}
    (sample,) = read_rows(tmp_path, row).samples
    places = [("user", "1: ", "image:a.png", " 2: ", "image:b.png", " Who?")]
    assert prompt_of(sample, "chosen") == prompt_of(sample, "rejected") == places
    moved = {**row, "rejected_conversations": turns("<image>1: <image>2: Who?", "b")}
    with pytest.raises(UserError, match="'rejected_conversations': its markers stand at other places"):
        read_rows(tmp_path, moved)


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
