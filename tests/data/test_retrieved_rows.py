"""Rows with retrieved pictures: the third role, its swap, and that it ties no rows together."""

from typing import Any

import pytest

from mmalign.data._records import read_record
from mmalign.data._sides import flipped, part_of
from mmalign.types import PreferenceSample, UserError


def row(number: int, retrieved: Any = None) -> PreferenceSample:
    """A pair about one picture; every row asks the same."""
    given: dict[str, Any] = {"id": str(number), "prompt": "what is it?", "images": [f"{number}.png"]}
    given |= {"chosen": f"right {number}", "rejected": f"wrong {number}"}
    if retrieved is not None:
        given["retrieved_images"] = retrieved
    return read_record(given, "rows.jsonl row 1", 0, "/").sample


def names(sample: PreferenceSample, role: str) -> list[str]:
    (example,) = sample.examples[role]
    parts = [part for turn in example.prompt for part in turn.parts if part.kind == "image"]
    return [str(part.data).rpartition("/")[2] for part in parts]


@pytest.mark.parametrize("given", [["7.png"], "7.png"])
def test_the_chosen_answer_stands_under_the_retrieved_picture(given: Any) -> None:
    sample = row(1, given)
    (chosen,), (retrieved,) = sample.examples["chosen"], sample.examples["chosen_retrieved"]
    assert retrieved.response == chosen.response and "7.png" in names(sample, "chosen_retrieved")[0]
    assert "1.png" in names(sample, "chosen")[0] and "1.png" in names(sample, "rejected")[0]
    assert "chosen_retrieved" not in row(1).examples


def test_as_many_pictures_as_the_prompt_has_places() -> None:
    fields = {"prompt": "<image> or <image>?", "chosen": "a", "rejected": "b", "images": ["1.png", "2.png"]}
    with pytest.raises(UserError, match=r"retrieved_images.*1 images for 2 image places"):
        read_record({**fields, "retrieved_images": ["3.png"]}, "rows.jsonl row 1", 0, "/")


def test_a_swap_puts_the_answer_that_is_now_chosen_under_it() -> None:
    (sample,), _ = flipped([row(1, ["7.png"])], 1.0)
    assert sample.examples["chosen_retrieved"][0].response == sample.examples["chosen"][0].response
    assert "7.png" in names(sample, "chosen_retrieved")[0]


def test_a_chain_of_retrieved_pictures_does_not_put_all_rows_on_one_side() -> None:
    samples = [row(number, [f"{(number + 1) % 20}.png"]) for number in range(20)]
    kept, away = part_of(samples, 5, "train"), part_of(samples, 5, "heldout")
    assert len(kept) == 15 and len(away) == 5
