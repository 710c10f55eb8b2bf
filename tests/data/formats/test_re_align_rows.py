"""Re-Align rows: the retrieved picture in a third role with the chosen answer."""

from pathlib import Path

import pytest
from data.format_rows import RE_ALIGN, answer_of, changed, prompt_of, read_rows

from mmalign.types import UserError

ASKED = {"chosen": "A cat.", "rejected": "A dog.", "prompt": "What is it?"}


def test_the_retrieved_picture_stands_in_the_place_of_the_other(tmp_path: Path) -> None:
    data = read_rows(tmp_path, RE_ALIGN)
    (sample,) = data.samples
    assert data.report.formats == {"re_align": 1}
    assert list(sample.examples) == ["chosen", "rejected", "chosen_retrieved"]
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "\nWhat is it?")]
    assert prompt_of(sample, "chosen_retrieved") == [("user", "image:b.png", "\nWhat is it?")]
    assert [answer_of(sample, role) for role in sample.examples] == ["A cat.", "A dog.", "A cat."]


@pytest.mark.parametrize(
    "prompt", ["What is it?", "<image>What is it?", [{"role": "user", "content": "What is it?"}]]
)
def test_texts_beside_a_prompt(prompt: object, tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, {**RE_ALIGN, **ASKED, "prompt": prompt}).samples
    assert prompt_of(sample, "chosen_retrieved") == [("user", "image:b.png", "What is it?")]


def test_canonical_rows_name_them_as_a_list(tmp_path: Path) -> None:
    row = {**ASKED, "images": ["a.png"], "retrieved_images": ["b.png"]}
    data = read_rows(tmp_path, row, format="canonical")
    assert prompt_of(data.samples[0], "chosen_retrieved") == [("text", "image:b.png", "What is it?")]
    assert not data.report.unknown_columns
    with pytest.raises(UserError, match="'retrieved_images': 2 images for 1 image places"):
        read_rows(
            tmp_path,
            {**row, "prompt": "<image>x", "retrieved_images": ["b.png", "c.png"]},
            format="canonical",
        )


def test_swapped_sides_carry_the_retrieved_picture_along(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, RE_ALIGN, flip=1.0).samples
    assert [answer_of(sample, role) for role in sample.examples] == ["A dog.", "A cat.", "A dog."]


def test_conversations_differ_in_their_last_turns_alone(tmp_path: Path) -> None:
    plain = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A dog."}]
    (sample,) = read_rows(tmp_path, {**RE_ALIGN, "rejected": plain}).samples
    assert (
        prompt_of(sample, "rejected")
        == prompt_of(sample, "chosen")
        == [("user", "image:a.png", "\nWhat is it?")]
    )
    asked = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A dog."}]
    with pytest.raises(UserError, match="'rejected': turn 1 is not that of chosen"):
        read_rows(tmp_path, {**RE_ALIGN, "rejected": asked})


def test_a_picture_behind_its_question_comes_first(tmp_path: Path) -> None:
    both = {
        side: [{"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": said}]
        for side, said in (("chosen", "A cat."), ("rejected", "A dog."))
    }
    (sample,) = read_rows(tmp_path, {**RE_ALIGN, **both}).samples
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "\nWhat is it?")]
    assert prompt_of(sample, "rejected") == prompt_of(sample, "chosen")


def test_broken_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'retrieved_image': holds no image"):
        read_rows(tmp_path, {**RE_ALIGN, "retrieved_image": None})
    with pytest.raises(UserError, match="'rejected': must be a list of at least two turns"):
        read_rows(tmp_path, {**RE_ALIGN, "rejected": "A dog."})
    assert read_rows(tmp_path, changed(RE_ALIGN, retrieved_image=...)).report.formats == {"trl": 1}
