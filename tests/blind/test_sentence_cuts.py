"""Sentences, where they are cut, and how their tails end them."""

import random

from mmalign.blind.cuts import Cut, cuts, joined, sentences


def test_sentences_and_the_space_before_them() -> None:
    text = "A cat sits. It is 1.5 m long!\n\nIs it red?  No"
    assert sentences(text) == [
        ("", "A cat sits."),
        (" ", "It is 1.5 m long!"),
        ("\n\n", "Is it red?"),
        ("  ", "No"),
    ]
    assert "".join(space + words for space, words in sentences(text)) == text
    assert sentences("a red star and a cross") == [("", "a red star and a cross")] and sentences(" ") == []


def test_cuts_keep_true_sentences_before_and_a_head() -> None:
    text = "A cat sits. It is red."
    heads: set[tuple[str, str]] = set()
    for seed in range(60):
        first, second = cuts(text, 0.5, random.Random(seed))
        assert (first.before, second.before, second.space) == ("", "A cat sits.", " ")
        assert second.begun == f"A cat sits. {second.head}".rstrip() and not (first.whole or second.whole)
        heads.add((first.head, second.head))
    assert {one for one, _ in heads} == {"", "A", "A cat"} and {two for _, two in heads} == {
        "",
        "It",
        "It is",
    }
    assert joined(cuts(text, 0.0, random.Random(1)), ["", ""]).count("sits") == 0


def test_tails_end_with_their_sentence() -> None:
    kept = Cut("A cat sits.", " ", "It is")
    assert kept.ended(" blue. It is old.") == "It is blue." and kept.ended(" 1.5 m") == "It is 1.5 m"
    assert kept.ended("!\nAnd so on") == "It is!" and kept.ended(" red\nand old.") == "It is red"
    start = Cut("", "", "")
    assert joined([start, kept], [" Dogs run. They do.", " big"]) == "Dogs run. It is big"
    assert joined([start, Cut("x.", " ", "")], [" A dog.", " "]) == "A dog."
    assert kept.ended("\nblue. It is old.") == "It is blue." and kept.ended(" \n\n blue") == "It is blue"
    assert (
        joined([start, Cut("x.", " ", "")], ["\nDogs run. They do.", "\n\nA dog\nsits"]) == "Dogs run. A dog"
    )
    assert kept.ended("\n") == "It is" and start.ended("\n \n") == ""


def test_a_leading_yes_or_no_is_turned_round() -> None:
    for text, turned in (("yes", "no"), ("No.", "Yes."), ("NO", "YES")):
        (cut,) = cuts(text, 1.0, random.Random(0))
        assert cut.whole and cut.ended("anything") == turned
    (cut,) = cuts("Yes, there is a dog.", 1.0, random.Random(0))
    assert not cut.whole and cut.ended(" cat is there. It is big") == "No cat is there."
    drawn = [cuts("yes", 0.5, random.Random(seed))[0].whole for seed in range(200)]
    assert 70 < sum(drawn) < 130
    assert not any(cuts("yes", 0.0, random.Random(seed))[0].whole for seed in range(20))
    assert not cuts("Nothing is there. No.", 1.0, random.Random(0))[1].whole, "only where the answer begins"
