"""Rows with an answer written blind: the third role, and rows that have no other answer to reject."""

import pytest

from mmalign.data._records import read_record
from mmalign.data._sides import flipped
from mmalign.types import PreferenceSample, UserError


def read(**fields: object) -> PreferenceSample:
    row = {"id": "one", "prompt": "what is it?", "images": ["1.png"], "chosen": "a cat", **fields}
    return read_record(row, "rows.jsonl row 1", 0, "/").sample


def said(sample: PreferenceSample) -> dict[str, str]:
    return {role: sides[0].response[0].data for role, sides in sample.examples.items()}


def test_a_third_answer_under_the_same_prompt() -> None:
    sample = read(rejected="a dog", bdhs="a car")
    assert said(sample) == {"chosen": "a cat", "rejected": "a dog", "bdhs": "a car"}
    assert sample.examples["bdhs"][0].prompt == sample.examples["chosen"][0].prompt
    assert set(read(rejected="a dog").examples) == {"chosen", "rejected"}


def test_alone_it_is_also_the_rejected_one() -> None:
    assert said(read(bdhs="a car")) == {"chosen": "a cat", "rejected": "a car", "bdhs": "a car"}
    assert said(read(bdhs="a car", rejected=None))["rejected"] == "a car"


def test_a_pair_still_needs_a_second_side() -> None:
    with pytest.raises(UserError, match="'rejected': is missing"):
        read()


def test_swapped_sides_keep_it_only_where_it_is_the_rejected_one() -> None:
    (swapped,), count = flipped([read(bdhs="a car")], 1.0)
    assert count == 1
    assert said(swapped) == {"chosen": "a car", "rejected": "a cat", "bdhs": "a cat"}
    (three,), _ = flipped([read(rejected="a dog", bdhs="a car")], 1.0)
    assert said(three) == {"chosen": "a dog", "rejected": "a cat"}, "its place among three is not known"
