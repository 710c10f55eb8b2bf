"""The CSV of Diffusion-KTO: labels from wins and losses, what becomes of pictures that did both."""

from pathlib import Path
from typing import Any, Literal

import pytest
from data.format_rows import answer_of, prompt_of

from mmalign.data._sources import LoadedData, load
from mmalign.data.diffusion_kto import DiffusionKto
from mmalign.types import UserError

ROWS = "w.jpg,a cat,exclusive_win\nl.jpg,a dog,exclusive_lose\nb.jpg,a cow,intersections\n"


def read(folder: Path, text: str, **options: Any) -> LoadedData:
    (folder / "x.csv").write_text(text)
    return load(DiffusionKto(path=str(folder / "x.csv"), **options))


@pytest.mark.parametrize("head", ["file_name,caption,split", "file_path,caption,label"])
def test_wins_are_liked_and_losses_disliked(head: str, tmp_path: Path) -> None:
    data = read(tmp_path, f"{head}\n{ROWS}")
    found = [(answer_of(one, "completion"), one.labels["binary"]) for one in data.samples]
    assert found == [("image:w.jpg", 1.0), ("image:l.jpg", 0.0), ("image:b.jpg", 1.0)]
    assert prompt_of(data.samples[0], "completion") == [("text", "a cat")]
    assert data.report.lines() == ["data: 3 of 3 rows used (completion 3)"]


@pytest.mark.parametrize(("fate", "labels"), [("negative", [1.0, 0.0, 0.0]), ("drop", [1.0, 0.0])])
def test_pictures_that_won_and_lost(
    fate: Literal["negative", "drop"], labels: list[float], tmp_path: Path
) -> None:
    data = read(tmp_path, f"file_name,caption,split\n{ROWS}", intersections=fate)
    assert [one.labels["binary"] for one in data.samples] == labels
    left = "data: 1 rows left out: intersections: pictures that won and lost"
    assert (left in data.report.lines()) == (fate == "drop")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("file_name,caption,split\na.jpg,a cat,win\n", "'split': must be exclusive_win, .* got 'win'"),
        (
            "file,caption,split\na.jpg,a cat,exclusive_win\n",
            "needs file_name .* its columns are file, caption",
        ),
        ("file_name,caption,split\na.jpg,,exclusive_win\n", "field 'caption': is empty"),
        ("file_name,caption,split\na.jpg,a cat,\n", "field 'split': is empty"),
    ],
)
def test_broken_rows(text: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"x.csv row 1.*{rule}"):
        read(tmp_path, text)


def test_options_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="intersections: must be positive, negative or drop, got 'both'"):
        DiffusionKto(path="x", intersections="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split: the rows' split column holds their labels"):
        DiffusionKto(path="x", split="exclusive_win")
