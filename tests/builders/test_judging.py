"""Verdicts and ratings read from a judge's words; scores that compare."""

import pytest
from builders.groups import Numbers, group

from mmalign.builders._judging import ByScores, read_rating, read_verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Image 1 is better because it shows both shapes.", "first"),
        ("image 2 is the better one", "second"),
        ("In short, Response 2 is better.", "second"),
        ("Both images are equally good.", "tie"),
        ("Image 1 is better than image 2.", "first"),
        ("Image 1 is better in colour, but overall Image 2 is better.", None),
        ("Image 1 is better, or they are equally good.", None),
        ("Image 12 is better", None),
        ("The first one.", None),
        ("Image 1 shows no dog, so image 2 is better.", "second"),
        ("The first does not show a dog, so image 2 is better.", "second"),
        ("I do not think image 1 is better.\n**Image 2 is better.**", "second"),
        ("Both are sharp. I do not think that answer 1 is better.", None),
        ("It isn\u2019t clear that image 1 is better.", None),
        ("It is unclear whether answer 1 is better.", None),
        ("If colour counts, image 1 is better.", None),
        ("The two are not equally good.", None),
        ("Is it that image 1 is better?", None),
        ("Some say image 1 is better. I cannot tell.", None),
        ("Image 1 is better. No: image 2 is better.", None),
        ("", None),
    ],
)
def test_verdicts(text: str, verdict: str | None) -> None:
    assert read_verdict(text) == verdict


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Final Score: 9", 9),
        ("Final Score: 10", 10),
        ("**Final Score:** 8/10", 8),
        ("final score - 3.", 3),
        ("Final Score: 2 ... on reflection, Final Score: 4", 4),
        ("Final Score: 8.5", None),
        ("Final Score: 11", None),
        ("Final Score: 0", None),
        ("Final Score: -3", None),
        ("Final Score: nine", None),
        ("The score is 7", None),
        ("Final Score (1-10): 8", 8),
        ("**Final Score** [1 to 10]: 8.", 8),
        ("Final Score (1-10)", None),
        ("Final Score: 7-8", None),
        ("Final Score: **7** \u2013 **8**", None),
        ("Final Score: 3 or 4", None),
        ("Final Score: 7 to 8", None),
        ("Final Score: 7 out of 10", 7),
        ("Final Score: 7 - a good answer", 7),
        ("Final Score: 7\n- 2 mistakes", 7),
        ("", None),
    ],
)
def test_ratings_are_whole_numbers_or_nothing(text: str, rating: int | None) -> None:
    assert read_rating(text) == rating


def test_scores_compare() -> None:
    low, high, near = group("1", "3", "1.5").answers
    judge = ByScores(Numbers(), even=0.5)
    assert judge.compare((), low, high) == "second" and judge.compare((), high, low) == "first"
    assert judge.compare((), low, near) == "tie"
