"""HPD v2 rows: a choice between two pictures, ranks of many, the raters' own ranks as scores."""

import json
from pathlib import Path
from typing import Any

import pytest
from data.format_rows import HPDV2, answer_of, changed, read_rows

from mmalign.data._pairing import PairRule
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError

RANKED: dict[str, Any] = {
    "prompt": "a cat",
    "image_path": ["a.png", "b.png", "c.png"],
    "rank": [2, 0, 1],
    "raw_annotations": [
        {"rank": [2, 0, 1], "user_hash": "x"},
        {"rank": [0, 1, 2], "user_hash": "y"},
        {"rank": [2, 1, 0], "user_hash": "z"},
    ],
}


def answers(sample: Any) -> list[str]:
    return [answer_of(sample, role) for role in ("chosen", "rejected")]


def test_a_choice_between_two_pictures(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, HPDV2).samples
    assert answers(sample) == ["image:b.png", "image:a.png"]
    (other,) = read_rows(tmp_path, {**HPDV2, "human_preference": [1, 0]}).samples
    assert answers(other) == ["image:a.png", "image:b.png"]
    both = read_rows(tmp_path, {**HPDV2, "human_preference": [1, 1]}, HPDV2)
    assert (both.report.ties_dropped, len(both.samples)) == (1, 1)


def test_ranks_stay_a_list_until_a_rule_is_given(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, RANKED).samples
    ranks = [example.labels["rank"] for example in sample.examples["responses"]]
    assert ranks == [2, 0, 1]
    (sample,) = read_rows(tmp_path, RANKED, pairs=PairRule()).samples
    assert answers(sample) == ["image:b.png", "image:a.png"]


def test_raters_vote(tmp_path: Path) -> None:
    """b over a: two of three; c over a: two of three; b over c: two of three."""
    raters = PairRule("all", by=("rater_1", "rater_2", "rater_3"), policy="majority")
    data = read_rows(tmp_path, RANKED, pairs=raters)
    found = {tuple(answers(sample)) for sample in data.samples}
    assert found == {
        ("image:b.png", "image:a.png"),
        ("image:c.png", "image:a.png"),
        ("image:b.png", "image:c.png"),
    }
    assert all(sample.labels["margin"] == 1.0 for sample in data.samples)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"human_preference": [1, 2]}, "'human_preference': must hold 1 for a preferred picture and 0"),
        ({"human_preference": [1]}, "'human_preference': must be a list of 2 numbers, one per picture"),
        ({"file_path": ["a.png"]}, "'file_path': must be a list of at least two pictures"),
        ({"file_path": ["a.png", None]}, r"'file_path\[1\]': holds no image"),
        ({"raw_annotations": [{"rank": [1]}]}, r"'raw_annotations\[0\]': must be a list of 2 numbers"),
        ({"prompt": ""}, "'prompt': is empty"),
    ],
)
def test_broken_rows(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"row 1, field {rule}"):
        read_rows(tmp_path, changed(HPDV2, **change), format="hpdv2")


def test_real_ranks(test_data: Path, tmp_path: Path) -> None:
    """The collection's rows come without pictures: named here, never opened."""
    path = test_data / "diffusion/hpdv2_test_rankings.json"
    rows = json.loads(path.read_text())
    made = [
        {
            "prompt": row["prompt"],
            "image_path": [f"{n}-{place}.png" for place in range(len(row["rank"]))],
            "rank": row["rank"],
            "raw_annotations": [{"rank": ranks} for ranks in row["annotator_ranks"]],
        }
        for n, row in enumerate(rows)
    ]
    (tmp_path / "test.json").write_text(json.dumps(made))
    data = load(Jsonl(path=str(tmp_path / "test.json"), pairs=PairRule("all")))
    counts = [len(row["rank"]) for row in rows]
    assert len(data.samples) == sum(n * (n - 1) // 2 for n in counts)  # ranks without ties
    best = load(Jsonl(path=str(tmp_path / "test.json"), pairs=PairRule()))
    for sample, row in zip(best.samples, rows, strict=True):
        places = [int(answer.split("-")[1].split(".")[0]) for answer in answers(sample)]
        assert row["rank"][places[0]] == 0 and row["rank"][places[1]] == len(row["rank"]) - 1
