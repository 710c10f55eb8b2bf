"""ImageReward rows: one picture a row put together by prompt, lists with ties, ready pairs."""

import json
from pathlib import Path
from typing import Any

import pytest
from bad_inputs import write_rows
from data.format_rows import IMAGE_REWARD, answer_of, changed, read_rows

from mmalign.data._pairing import PairRule
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError


def picture(group: str, name: str, rank: int, **change: Any) -> dict[str, Any]:
    row = {
        "image": name,
        "prompt_id": group,
        "prompt": f"prompt {group}",
        "rank": rank,
        "overall_rating": 7 - rank,
    }
    return changed({**row, "classification": "x", "image_amount_in_total": 3}, **change)


ROWS = [
    picture("A", "a1.png", 2),
    picture("A", "a2.png", 1),
    picture("B", "b1.png", 1),
    picture("A", "a3.png", 2),
    picture("C", "c1.png", 1),
    picture("B", "b2.png", 2),
]


def answers(sample: Any) -> list[str]:
    return [answer_of(sample, role) for role in ("chosen", "rejected")]


def test_rows_of_one_prompt_become_a_list(tmp_path: Path) -> None:
    data = read_rows(tmp_path, *ROWS)
    assert [sample.id for sample in data.samples] == ["A", "B"]
    first = data.samples[0]
    assert first.origin == "x.jsonl row 1 and 2 more of group 'A'"
    assert [e.labels for e in first.examples["responses"]] == [
        {"rank": 2.0, "overall_rating": 5.0},
        {"rank": 1.0, "overall_rating": 6.0},
        {"rank": 2.0, "overall_rating": 5.0},
    ]
    assert "data: 1 rows left out: alone in its group" in data.report.lines()


def test_groups_become_pairs_and_ties_are_counted(tmp_path: Path) -> None:
    data = read_rows(tmp_path, *ROWS, pairs=PairRule("all"))
    assert [answers(sample) for sample in data.samples] == [
        ["image:a2.png", "image:a1.png"],
        ["image:a2.png", "image:a3.png"],
        ["image:b1.png", "image:b2.png"],
    ]
    assert (data.report.ties_dropped, data.report.lists.total()) == (1, 2)
    by_rating = read_rows(tmp_path, *ROWS, pairs=PairRule(by=("overall_rating",)))
    assert answers(by_rating.samples[0]) == ["image:a2.png", "image:a3.png"]


def test_lists_pairs_and_generations(tmp_path: Path) -> None:
    listed = {
        "prompt_id": "A",
        "prompt": "P",
        "image": ["a.png", "b.png"],
        "rank": [2, 1],
        "fidelity_rating": [3, 4],
    }
    (sample,) = read_rows(tmp_path, listed, pairs=PairRule()).samples
    assert (sample.id, answers(sample)) == ("A", ["image:b.png", "image:a.png"])
    pair = {"prompt_id": "A", "prompt": "P", "img_better": "b.png", "img_worse": "a.png"}
    (sample,) = read_rows(tmp_path, pair).samples
    assert answers(sample) == ["image:b.png", "image:a.png"]
    data = read_rows(tmp_path, IMAGE_REWARD, pairs=PairRule("all"))
    assert [answers(one)[0] for one in data.samples] == ["image:b.png", "image:b.png"]
    assert data.report.ties_dropped == 1


def test_a_group_has_one_prompt(tmp_path: Path) -> None:
    odd = picture("A", "a4.png", 3, prompt="another")
    with pytest.raises(
        UserError, match="row 7: is of group 'A', but its prompt is not that of x.jsonl row 1"
    ):
        read_rows(tmp_path, *ROWS, odd)
    data = read_rows(tmp_path, *ROWS, odd, on_error="skip")
    assert (len(data.report.skipped), len(data.samples[0].examples["responses"])) == (1, 3)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (changed(ROWS[0], rank=None), "'rank': must be a number, got null"),
        (picture("A", "a.png", 1, prompt_id=None), "'prompt_id': must be a text or a whole number"),
        (picture("A", "a.png", 1, image=None), "'image': holds no image"),
        (changed(IMAGE_REWARD, ranking=[1, 2]), "'ranking': must be a list of 3 numbers"),
        (
            changed(IMAGE_REWARD, generations=["a.png"], ranking=[1]),
            "'generations': must be a list of at least",
        ),
        (picture("A", "a.png", 1, image=["a.png", "b.png"]), "'rank': must be a list of 2 numbers"),
    ],
)
def test_broken_rows(row: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"row 1, field {rule}"):
        read_rows(tmp_path, row)


def test_real_rankings_with_ties(test_data: Path) -> None:
    path = test_data / "diffusion/imagereward_test_rankings.json"
    data = load(Jsonl(path=str(path), pairs=PairRule("all")))
    rows = json.loads(path.read_text())
    pairs = [(a, b) for row in rows for n, a in enumerate(row["ranking"]) for b in row["ranking"][:n]]
    assert data.report.ties_dropped == sum(a == b for a, b in pairs) > 0
    same = sum(
        row["generations"][a] == row["generations"][b] and row["ranking"][a] != row["ranking"][b]
        for row in rows
        for a in range(len(row["ranking"]))
        for b in range(a)
    )
    assert data.report.identical == same
    assert len(data.samples) == sum(a != b for a, b in pairs)


def test_real_pictures_by_rank_and_by_score_agree(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "diffusion/preference_images"
    row = json.loads((folder / "metadata.jsonl").read_text().splitlines()[0])
    made = {"id": "r", "prompt": row["prompt"], "generations": row["images"], "ranking": row["rank"]}
    path = write_rows(tmp_path / "x.jsonl", [made])
    by_rank = load(Jsonl(path=str(path), root=str(folder), pairs=PairRule("all")))
    scored = {"id": "r", "prompt": row["prompt"], "response_images": row["images"], "scores": row["scores"]}
    path = write_rows(tmp_path / "y.jsonl", [scored])
    by_score = load(Jsonl(path=str(path), root=str(folder), pairs=PairRule("all")))
    assert [answers(one) for one in by_rank.samples] == [answers(one) for one in by_score.samples]
    assert len(by_rank.samples) == 6
