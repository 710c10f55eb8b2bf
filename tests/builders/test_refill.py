"""Re-Align's gaps and their fillings, without a model."""

import pytest

from mmalign.builders import _refill
from mmalign.builders._refill import Masked, next_fill, read_mask, read_refill

ANSWER = "A brown dog sits left of a cat."
MASKED = "A [MASK] sits [MASK] a [MASK]."
FOUND = Masked(("A ", " sits ", " a ", "."), ("brown dog", "left of", "cat"))


def test_requests_hold_the_answer_at_their_end() -> None:
    (turn,) = _refill.ask_mask("What is there?", ANSWER)
    text = turn.parts[0].data
    assert turn.speaker == "user" and "Question:\nWhat is there?\n" in text
    assert text.partition("Answer:\n")[2] == ANSWER
    assert _refill.refill_text("What is there?", FOUND).endswith(f"\n\nAnswer:\n{MASKED}")


def test_gaps_are_read_off_the_copy() -> None:
    assert read_mask(ANSWER, f" {MASKED}\n") == FOUND
    assert FOUND.text == MASKED and FOUND.filled(FOUND.spans) == ANSWER
    assert read_mask("a cat", "[MASK]") == Masked(("", ""), ("a cat",))
    # a text that stands there twice
    assert read_mask("a cat and a dog and a fox", "a [MASK] and a [MASK]") == Masked(
        ("a ", " and a ", ""), ("cat", "dog and a fox")
    )


@pytest.mark.parametrize(
    "copy",
    [
        ANSWER,  # no gap
        "A [MASK] sits right of a [MASK].",  # changed
        "The [MASK] sits left of a cat.",
        "A [MASK] sits left of a [MASK]!",
        "A [MASK][MASK] sits left of a cat.",  # which of the two ends where?
        "A [MASK]brown dog sits left of a cat.",  # nothing was left out
        "A brown[MASK]dog sits left of a cat.",  # a space is no word
        "A brown dog sits left of a cat. [MASK]",
        "Here it is: A [MASK] sits left of a cat.",
        "",
    ],
)
def test_other_copies_are_not_read(copy: str) -> None:
    assert read_mask(ANSWER, copy) is None


def test_the_end_is_not_taken_twice() -> None:
    assert read_mask("aba", "a[MASK]ba") is None
    assert read_mask("abba", "a[MASK]ba") == Masked(("a", "ba"), ("b",))
    assert read_mask("a a", "a [MASK] a") is None


def test_fillings_keep_what_is_around_the_gaps() -> None:
    told = "A red fox sits under a tree."
    assert read_refill(FOUND, f"{told}\n", keep=True) == told
    loose = "A red fox is under a tree."
    assert read_refill(FOUND, loose, keep=True) is None
    assert read_refill(FOUND, loose, keep=False) == loose
    for keep in (True, False):
        assert read_refill(FOUND, "A red fox sits [MASK] a tree.", keep) is None
        assert read_refill(FOUND, " ", keep) is None


def test_gaps_are_filled_one_after_the_other() -> None:
    assert _refill.begun(FOUND, []) == "A"
    assert _refill.begun(FOUND, ["red fox"]) == "A red fox sits"
    assert FOUND.filled(["red fox", "under"]) == "A red fox sits under a "
    assert next_fill(FOUND, 0, " red fox sits under") == "red fox"
    assert next_fill(FOUND, 2, " tree. It runs") == "tree"
    assert next_fill(FOUND, 1, " under\nthe end") == "under"
    assert next_fill(FOUND, 0, "  ") is None and next_fill(FOUND, 2, " . ") is None
