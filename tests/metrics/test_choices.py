"""Which choice an answer means."""

import pytest

from mmalign.metrics._choices import bare, chosen, letter_in, lettered, placed, plain
from mmalign.types import Part, UserError

OPTIONS = ["a red cup", "red", "blue", "no cup"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("(C)", "C"), ("C.", "C"), ("D) no cup", "D"), ("B: red", "B"),
        ("The answer is (B).", "B"),
        ("The best answer is: C", "C"), ("Answer: D", "D"), ("Option B", "B"), ("C blue", "C"),
        ("blue", "C"), ("Blue.", "C"), ("red", "B"), ("A red cup", "A"),
        ("A red cup on a table", "A"), ("A bird", None), ("I think so", None), ("E", None), ("", None),
        ("A because he runs", "A"), ("A is right", "A"), ("A - red", "A"), ("A \u2014 a red cup", "A"),
        ("A\na red cup", "A"), ("The answer is A because", "A"), ("A matches the picture", "A"),
        ("B because he runs", "B"), ("A is-not-a-word", None), ("A red-hot pan", None), ("A blue cup", None),
        ("A or B", None), ("A -red one", None), ("A \"blue\" cup", None),
        ("Either B or C", None), ("blueish", None), ("no cup at all", "D"),
    ],
)  # fmt: skip
def test_letters(answer: str, letter: str | None) -> None:
    assert chosen(answer, OPTIONS) == letter


def test_a_letter_with_its_option() -> None:
    assert chosen("A red", ["red", "blue"]) == "A" and chosen("B blue", ["red", "blue"]) == "B"
    assert chosen("A blue", ["red", "blue"]) is None and chosen("A red", ["red", "a red"]) == "B"


def test_options_in_words() -> None:
    assert lettered(OPTIONS[:2]) == "A. a red cup\nB. red"
    assert [bare(one) for one in ("(A) a cup", "B. Bells", "C) C", "A cup")] == [
        "a cup",
        "Bells",
        "C",
        "A cup",
    ]
    assert letter_in("(B) red", 2, "here", "answer") == "B" and plain(" The  Cup. ") == "the cup"
    with pytest.raises(UserError, match="here: answer must be a letter of one of the 2 options, got 'C'"):
        letter_in("C", 2, "here", "answer")
    with pytest.raises(UserError, match="must be a letter"):
        letter_in("Blue", 2, "here", "answer")


def test_places_of_pictures() -> None:
    one, two = Part("image", 1), Part("image", 2)
    assert placed("What?", [one, two], "") == [one, two, "What?"]
    assert placed("<image> or <image>?", [one, two], "") == [one, " or ", two, "?"]
    with pytest.raises(UserError, match="row 3: the question has 1 places for 2 pictures"):
        placed("<image>?", [one, two], "row 3")
