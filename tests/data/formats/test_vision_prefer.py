"""Pictures judged by aspects: where scores stand, and how aspects decide together."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import VISION_PREFER, answer_of, changed, read_rows

from mmalign.data._pairing import PairRule
from mmalign.types import UserError

ASPECTS = ("prompt_following", "aesthetic", "fidelity", "harmlessness")


def row(*scores: tuple[float, float, float, float], **change: Any) -> dict[str, Any]:
    items = [
        {
            "image": f"{n}.png",
            "model": "m",
            **{a: {"score": s, "rationale": "because"} for a, s in zip(ASPECTS, own, strict=True)},
        }
        for n, own in enumerate(scores)
    ]
    return {"prompt_id": 7, "prompt": "a cat", "images": items, **change}


def made(folder: Path, content: dict[str, Any], **rule: Any) -> list[tuple[str, ...]]:
    data = read_rows(folder, content, pairs=PairRule(**rule))
    return [tuple(answer_of(sample, role)[6:] for role in ("chosen", "rejected")) for sample in data.samples]


def test_policies_differ(tmp_path: Path) -> None:
    """0 has the better mean (2.75 to 2.5), 1 wins three aspects of four, and one aspect vetoes either."""
    content = row((5, 2, 2, 2), (1, 3, 3, 3))
    assert made(tmp_path, content, by=ASPECTS) == [("0.png", "1.png")]
    assert made(tmp_path, content, by=ASPECTS, policy="majority") == [("1.png", "0.png")]
    assert made(tmp_path, content, by=("prompt_following",)) == [("0.png", "1.png")]
    with pytest.raises(
        UserError, match=r"no row holds a preference \(one of the scores judges the other way"
    ):
        made(tmp_path, content, by=ASPECTS, policy="veto")
    clear = row((5, 3, 3, 3), (1, 3, 3, 3))
    assert made(tmp_path, clear, by=ASPECTS, policy="veto") == [("0.png", "1.png")]


def test_layouts_read_alike(tmp_path: Path) -> None:
    scores = [(5, 1), (3, 2)]
    names = ASPECTS[:2]
    inside = {
        "prompt": "a cat",
        "images": [
            {"path": f"{n}.png", **dict(zip(names, own, strict=True))} for n, own in enumerate(scores)
        ],
    }
    rated = {
        "prompt": "a cat",
        "images": [
            {
                "path": f"{n}.png",
                "annotations": {
                    a: {"Rating": str(s), "Rationale": "x"} for a, s in zip(names, own, strict=True)
                },
            }
            for n, own in enumerate(scores)
        ],
    }
    columns = {
        "prompt": "a cat",
        "images": ["0.png", "1.png"],
        "prompt_following": [5, 3],
        "aesthetic": [1, 2],
    }
    found = [read_rows(tmp_path, one).samples for one in (inside, rated, columns)]
    assert [sample.examples for (sample,) in found] == [found[0][0].examples] * 3
    labels = [example.labels for example in found[0][0].examples["responses"]]
    assert labels == [
        {"prompt_following": 5.0, "aesthetic": 1.0},
        {"prompt_following": 3.0, "aesthetic": 2.0},
    ]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"images": VISION_PREFER["images"][:1]}, "'images': must be a list of at least two pictures"),
        ({"images": [{"image": "a.png", "scores": {}}] * 2}, r"'images\[0\]': has no score; aspects are"),
        ({"images": [{"scores": {"aesthetic": 1}}] * 2}, r"'images\[0\]': holds no picture"),
        (
            {"images": [{"image": "a.png", "scores": {"aesthetic": "N/A"}}] * 2},
            r"'images\[0\].aesthetic': must be a number, got 'N/A'",
        ),
        (
            {"images": [{"image": "a.png", "scores": {"aesthetic": "nan"}}] * 2},
            r"'images\[0\].aesthetic': must be finite",
        ),
        ({"images": ["a.png", "b.png"], "aesthetic": [1]}, "'aesthetic': must be a list of 2 numbers"),
    ],
)
def test_broken_rows(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"row 1, field {rule}"):
        read_rows(tmp_path, changed(VISION_PREFER, **change), format="vision_prefer")


def test_an_aspect_that_one_picture_lacks(tmp_path: Path) -> None:
    less = row((5, 2, 2, 2), (1, 3, 3, 3))
    del less["images"][1]["fidelity"]
    with pytest.raises(UserError, match="row 1: answer 1: has no score 'fidelity'"):
        made(tmp_path, less, by=ASPECTS)
    assert made(tmp_path, less, by=("aesthetic",)) == [("1.png", "0.png")]
