"""Folders of pictures: winners and losers by name, captioned files, what is left out and counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from bad_inputs import png
from data.format_rows import answer_of, prompt_of

from mmalign.data._first_pass import first_pass
from mmalign.data._sources import LoadedData, load
from mmalign.data.folder_pairs import FolderPairs
from mmalign.data.image_folder import ImageFolder
from mmalign.types import UserError


def write(folder: Path, *names: str) -> None:
    """Pictures, or what stands after "=": the text of a file."""
    for name in names:
        name, _, text = name.partition("=")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if text else png())


def pairs(folder: Path, **options: Any) -> LoadedData:
    return load(FolderPairs(path=str(folder), **options))


def shown(data: LoadedData) -> list[tuple[str, str, str, str]]:
    return [
        (
            one.id,
            str(prompt_of(one, "chosen")[0][1]),
            *(answer_of(one, role) for role in ("chosen", "rejected")),
        )  # type: ignore[misc]
        for one in data.samples
    ]


def test_files_of_the_same_name_are_a_pair(tmp_path: Path) -> None:
    write(tmp_path, "winners/b.png", "losers/b.jpg", "winners/a.mp4", "losers/a.webm", "winners/.x.png")
    write(tmp_path, "winners/a.txt=a fox\n", 'captions.jsonl={"file_name": "b", "text": "a bear"}')
    data = pairs(tmp_path)
    assert shown(data) == [
        ("a", "a fox", "video:winners/a.mp4", "video:losers/a.webm"),
        ("b", "a bear", "image:winners/b.png", "image:losers/b.jpg"),
    ]
    assert data.samples[0].origin == "winners/a"


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (
            ["winners/a.png", "winners/a.txt=x"],
            "winners/a: the folder 'losers' has no picture or clip of that",
        ),
        (["losers/a.png"], "winners/a: the folder 'winners' has no picture"),
        (["winners/a.png", "winners/a.jpg", "losers/a.png"], "winners/a: the folder 'winners' has 2 files"),
        (["winners/a.png", "losers/a.mp4", "winners/a.txt=x"], "a.png is a image and a.mp4 a video"),
        (["winners/a.png", "losers/a.png"], "winners/a: has no caption; write a.txt beside the winner"),
    ],
)
def test_a_side_without_the_other_goes_out_with_it(names: list[str], rule: str, tmp_path: Path) -> None:
    write(tmp_path, "winners/z.png", "losers/z.png", "winners/z.txt=z", *names)
    with pytest.raises(UserError, match=rule):
        pairs(tmp_path)
    data = pairs(tmp_path, on_error="skip")
    assert ([one.id for one in data.samples], len(data.report.skipped)) == (["z"], 1)


def test_other_names_and_missing_folders(tmp_path: Path) -> None:
    write(tmp_path, "w/a.png", "l/a.png", "metadata.csv=file_name,caption\nw/a.png,a cat\n")
    assert shown(pairs(tmp_path, winners="w", losers="l"))[0][1] == "a cat"
    with pytest.raises(UserError, match="winners': no such folder"):
        pairs(tmp_path)
    with pytest.raises(ValueError, match="losers: must be another folder than winners, got 'w'"):
        FolderPairs(path="x", winners="w", losers="w")
    write(tmp_path, 'captions.jsonl={"file_name": "a"}')
    with pytest.raises(UserError, match="has metadata.csv and captions.jsonl; keep one"):
        pairs(tmp_path, winners="w", losers="l")


def test_captioned_files_and_files_that_no_row_names(tmp_path: Path) -> None:
    rows = [{"file_name": "a.png", "text": "a cat"}, {"file_name": "b.png", "text": "a dog", "label": False}]
    write(tmp_path, "a.png", "b.png", "c.png", "metadata.jsonl=" + "\n".join(map(json.dumps, rows)))
    data = load(ImageFolder(path=str(tmp_path)))
    assert [list(one.examples) for one in data.samples] == [["chosen"], ["completion"]]
    assert data.samples[1].labels["binary"] == 0.0
    assert "data: 1 rows left out: files that no row of metadata.jsonl names" in data.report.lines()
    assert len(first_pass(data.samples, lambda sample: ()).kept) == 2  # the files are found and sound


def test_folders_of_splits(tmp_path: Path) -> None:
    write(tmp_path, "train/a.png", "train/metadata.csv=file_name,text\na.png,a cat\n")
    write(tmp_path, "test/b.png", "test/b.txt=a dog")
    data = load(ImageFolder(path=str(tmp_path), split="train"))
    assert [answer_of(one, "chosen") for one in data.samples] == ["image:train/a.png"]
    assert first_pass(data.samples, lambda sample: ()).kept
    other = load(ImageFolder(path=str(tmp_path), split="test"))
    assert prompt_of(other.samples[0], "chosen") == [("text", "a dog")]


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["a.png"], "a.png: has no caption; write a.txt beside it, or a metadata.jsonl"),
        (
            ["a.png", 'metadata.jsonl={"name": "a.png"}'],
            "metadata.jsonl row 1: needs file_name; its columns are",
        ),
        (["a.png", 'metadata.jsonl={"file_name": "a.png"}'], "metadata.jsonl row 1: no chosen and rejected"),
        (["readme.md=x"], "holds no rows"),
    ],
)
def test_folders_that_are_refused(names: list[str], rule: str, tmp_path: Path) -> None:
    write(tmp_path, *names)
    with pytest.raises(UserError, match=rule):
        load(ImageFolder(path=str(tmp_path)))
    with pytest.raises(UserError, match="no such folder"):
        load(ImageFolder(path=str(tmp_path / "none")))


def test_real_folder(test_data: Path) -> None:
    folder = test_data / "diffusion/flags_64"
    data = load(ImageFolder(path=str(folder)))
    assert len(data.samples) == 255 and not data.report.left_out
    assert prompt_of(data.samples[0], "chosen") == [("text", "the flag of Andorra")]
    assert len(first_pass(data.samples[:20], lambda sample: ()).kept) == 20
