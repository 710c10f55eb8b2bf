"""RLAIF-V's claims, questions, scores, pairs and lengths, without a model."""

import random
from fractions import Fraction

import pytest

from mmalign.builders import _claims
from mmalign.builders._claims import LIMITS, choose_pairs, length_limit, read_claims, read_questions, score_of

# ---------------------------------------------------------------- lists


def test_requests_hold_what_is_to_be_read_at_their_end() -> None:
    (turn,) = _claims.ask_claims("What is there?", "A dog.\n\nIt runs.")
    text = turn.parts[0].data
    assert turn.speaker == "user" and "Question:\nWhat is there?" in text
    assert text.partition("Answer:\n")[2] == "A dog.\n\nIt runs."
    (turn,) = _claims.ask_questions(["There is a dog.", "It runs."])
    assert turn.parts[0].data.split("\n\n")[-1] == "Statements:\n1. There is a dog.\n2. It runs."


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("1. There is a dog.\n2. It is brown.", ("There is a dog.", "It is brown.")),
        ("Here are the claims:\n\n1) There is a dog.\n", ("There is a dog.",)),
        ("NONE", ()),
        (" NONE.\n", ()),
        ("1. There is a dog.\n3. It is brown.", None),  # a number is missing
        ("1. There is a dog.\nIt is brown.", None),
        ("There is a dog.", None),
        ("1. There is a dog.\n2.", None),
        ("The claims:", None),
        ("", None),
        ("1. NONE", ("NONE",)),
    ],
)
def test_claims_are_read_from_numbered_lists_alone(text: str, claims: tuple[str, ...] | None) -> None:
    assert read_claims(text) == claims


@pytest.mark.parametrize(
    ("question", "fits"),
    [
        ("Is there a dog?", True),
        ("In the picture, are there two dogs?", True),
        ("doesn't the dog run?", True),
        ("What colour is the dog?", False),
        ("can't it see?", True),
        ("Is there a dog", False),
        ("Is there a dog? Yes.", False),
        ("Island dogs run?", False),
        ("How many, is it two?", False),
    ],
)
def test_questions_are_answered_by_yes_or_no(question: str, fits: bool) -> None:
    assert (read_questions(f"1. {question}", 1) == (question,)) is fits


def test_every_claim_needs_a_question() -> None:
    assert read_questions("1. Is it a dog?\n2. Was it red?", 2) == ("Is it a dog?", "Was it red?")
    assert read_questions("1. Is it a dog?", 2) is None
    assert read_questions("1. Is it a dog?\n2. Was it red?", 1) is None


# ---------------------------------------------------------------- scores and pairs


def test_the_worked_scores() -> None:
    assert score_of([True, True, False]) == -1
    assert score_of([True, True, True]) == 0


def test_pairs_are_at_least_so_far_apart() -> None:
    rng = random.Random(0)
    assert choose_pairs([-1, 0], 1, 2, rng) == ([(1, 0)], 0)
    assert choose_pairs([-1, -1], 1, 2, rng) == ([], 0)
    assert choose_pairs([-3, None, 0, -1], 2, 9, rng) == ([(2, 0), (3, 0)], 0)
    assert choose_pairs([-3, None, 0, -1], 3, 9, rng) == ([(2, 0)], 0)


def test_a_few_pairs_are_drawn_among_all() -> None:
    scores = [0, -1, -2, -3]
    drawn = {
        tuple(found)
        for number in range(200)
        for found, left in [choose_pairs(scores, 1, 2, random.Random(number))]
        if left == 4 and all(scores[a] > scores[b] for a, b in found)
    }
    assert len(drawn) == 15  # every two of the six


# ---------------------------------------------------------------- lengths


def test_the_limit_brings_mean_lengths_together() -> None:
    # longer by 0, 1/10, 1/2 of the rejected one's length, and shorter
    lengths = [(10, 10), (9, 10), (5, 10), (12, 10)]
    # with all: 36 to 40; without the third: 31 to 30; without the second too: 22 to 20
    assert length_limit(lengths) == Fraction(48, 100)
    kept = [pair for pair in lengths if _claims.within(pair, length_limit(lengths))]
    assert kept == [(10, 10), (9, 10), (12, 10)]
    assert length_limit([(1, 10)] * 3) == LIMITS[-1]  # less would keep none
    assert length_limit([(20, 10), (30, 10)]) == LIMITS[-1] == Fraction(98, 100)
    assert length_limit([(1, 100)]) == length_limit([]) == LIMITS[-1]


def test_lengths_on_the_limit_stay() -> None:
    assert _claims.within((98, 100), Fraction(2, 100))
    assert not _claims.within((97, 100), Fraction(2, 100))
    assert _claims.within((3, 2), Fraction(0)) and _claims.within((0, 0), Fraction(0))
    assert _claims.words_of(" a red  circle\n") == 3
