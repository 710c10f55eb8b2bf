"""VLFeedback rows: means over aspects, all couples of unequal means, ratings that are no numbers."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import VLFEEDBACK, answer_of, changed, only, prompt_of, read_rows

from mmalign.data._pairing import PairRule
from mmalign.types import UserError


def rated(*ratings: Any) -> list[dict[str, Any]]:
    """Answers r0, r1, ... each with ratings of two aspects."""
    return [
        {
            "annotations": {
                name: {"Rating": one} for name, one in zip(("Help", "Ethics"), pair, strict=True)
            },
            "response": f"r{place}",
            "model": "m",
        }
        for place, pair in enumerate(ratings)
    ]


def pairs_of(folder: Path, completions: Any, **options: Any) -> set[tuple[str, str]]:
    samples = read_rows(folder, {**VLFEEDBACK, "completions": completions}, **options).samples
    return {(answer_of(one, "chosen"), answer_of(one, "rejected")) for one in samples}


def test_a_mapping_of_lists(tmp_path: Path) -> None:
    data = read_rows(tmp_path, VLFEEDBACK)
    (sample,) = data.samples
    assert data.report.formats == {"vlfeedback": 1}
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "What is it?")]
    assert (answer_of(sample, "chosen"), answer_of(sample, "rejected")) == ("A cat.", "A dog.")
    assert only(sample, "chosen").labels == {"Helpfulness": 5.0, "Ethical": 4.0, "score": 4.5}
    assert sample.labels["margin"] == 1.0  # (5 + 4) / 2 - (2 + 5) / 2


def test_all_couples_of_unequal_means(tmp_path: Path) -> None:
    found = pairs_of(tmp_path, rated(("1", "2"), (5, 5), ("2", "1"), ("4", "4")))  # means 1.5, 5, 1.5, 4
    assert found == {("r1", "r0"), ("r1", "r2"), ("r1", "r3"), ("r3", "r0"), ("r3", "r2")}


@pytest.mark.parametrize("odd", ["N/A", None, "nan"])
def test_an_answer_whose_rating_is_no_number_takes_part_in_none(odd: Any, tmp_path: Path) -> None:
    assert pairs_of(tmp_path, rated((1, 2), (5, odd), (4, 4))) == {("r2", "r0")}
    rows = [VLFEEDBACK, {**VLFEEDBACK, "completions": rated((1, 2), (5, odd))}]
    report = read_rows(tmp_path, *rows).report
    assert report.left_out == {"with fewer than two rated answers": 1}
    assert "data: 1 answer left out: a rating is missing or no number" in report.lines()


def test_answers_without_a_rating_are_counted(tmp_path: Path) -> None:
    rows = [{**VLFEEDBACK, "completions": rated((1, 2), (5, "N/A"), (4, 4))} for _ in range(3)]
    lines = read_rows(tmp_path, *rows).report.lines()
    assert "data: 3 answers left out: a rating is missing or no number" in lines
    assert not [line for line in read_rows(tmp_path, VLFEEDBACK).report.lines() if "a rating is" in line]
    with pytest.raises(UserError, match=r"rated answers 1; 1 answer left out: a rating"):
        read_rows(tmp_path, {**VLFEEDBACK, "completions": rated((1, 2), (5, "N/A"))})


def test_a_rule_of_the_source_goes_by_aspects(tmp_path: Path) -> None:
    found = pairs_of(tmp_path, rated((1, 5), (5, 2)), pairs=PairRule(by=("Ethics",)))
    assert found == {("r0", "r1")}


@pytest.mark.parametrize(
    ("completions", "rule"),
    [
        ({"annotations": [{}], "response": []}, "lists of annotations and of responses, equally long"),
        (
            {"annotations": [{}, {}], "response": ["a", "b"]},
            r"'completions\[0\].annotations': must be {aspect",
        ),
        (
            [{"annotations": {}, "response": "a"}, 3],
            r"'completions\[1\]': must hold annotations and response",
        ),
        ("[]", "'completions': must be a list of answers, or a mapping of lists"),
        (
            rated((1, 2), (3, 4))[:1] + [{**rated((1, 2))[0], "response": None}],
            r"'completions\[1\]': is null",
        ),
    ],
)
def test_broken_rows(completions: Any, rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rule):
        read_rows(tmp_path, changed(VLFEEDBACK, completions=completions), format="vlfeedback")
