"""TRL rows with media: explicit and implicit prompts, places, single pictures, saved datasets."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from bad_inputs import png
from data.format_rows import TRL, answer_of, changed, prompt_of, read_rows
from PIL import Image

from mmalign.data._formats import known_formats, read_row
from mmalign.data._media import decode
from mmalign.data._records import Record
from mmalign.data._sources import load
from mmalign.data.hub import Hub
from mmalign.types import UserError


def test_places_are_filled_in_order(tmp_path: Path) -> None:
    data = read_rows(tmp_path, TRL)
    (sample,) = data.samples
    for role, text in (("chosen", "the first"), ("rejected", "the second")):
        assert prompt_of(sample, role) == [("user", "image:a.png", "or", "image:b.png")]
        assert answer_of(sample, role) == text
    name = str(tmp_path / "x.jsonl")
    assert data.report.lines()[0] == f"data: {name!r} read as trl rows (chosen, rejected, images)"


def test_implicit_prompt(tmp_path: Path) -> None:
    row = {
        "images": TRL["images"],
        "chosen": [*TRL["prompt"], *TRL["chosen"]],
        "rejected": [*TRL["prompt"], *TRL["rejected"]],
    }
    (sample,) = read_rows(tmp_path, row).samples
    (explicit,) = read_rows(tmp_path, TRL).samples
    assert sample.examples == explicit.examples


def test_pictures_come_first_where_no_place_is_given(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "S"}, {"role": "user", "content": "Which?"}]
    (sample,) = read_rows(tmp_path, changed(TRL, prompt=prompt)).samples
    expected = [("system", "S"), ("user", "image:a.png", "image:b.png", "Which?")]
    assert prompt_of(sample, "rejected") == expected


def test_pictures_and_videos_written_into_the_prompt(tmp_path: Path) -> None:
    content = [{"type": "image", "image": "a.png"}, {"type": "video", "video": "v.mp4"}, {"type": "video"}]
    row = changed(TRL, prompt=[{"role": "user", "content": content}], images=..., video="w.mp4")
    (sample,) = read_rows(tmp_path, row).samples
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "video:v.mp4", "video:w.mp4")]


@pytest.mark.parametrize("image", ["a.png", ["a.png"]])
def test_one_picture_beside_plain_texts(tmp_path: Path, image: Any) -> None:
    data = read_rows(tmp_path, {"image": image, "prompt": "What?", "chosen": "cat", "rejected": "dog"})
    assert prompt_of(data.samples[0], "chosen") == [("text", "image:a.png", "What?")]
    assert "read as trl rows (chosen, rejected, image)" in data.report.lines()[0]


def test_a_row_without_pictures_reads_alike_in_both_formats(tmp_path: Path) -> None:
    row = changed(TRL, images=..., prompt=[{"role": "user", "content": "Which?"}])
    as_trl, as_own = (read_rows(tmp_path, row, format=name).samples for name in ("trl", "canonical"))
    assert as_trl == as_own


def test_saved_dataset_with_decoded_pictures(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (8 + n, 6), (n, 20, 30)) for n in range(2)]
    rows = datasets.Dataset.from_dict(
        {"images": [pictures], "prompt": [TRL["prompt"]], "chosen": ["x"], "rejected": ["y"]},
        features=datasets.Features(
            {
                "images": datasets.List(datasets.Image()),
                "prompt": [{"role": datasets.Value("string"), "content": [_PART]}],
                "chosen": datasets.Value("string"),
                "rejected": datasets.Value("string"),
            }
        ),
    )
    rows.save_to_disk(str(tmp_path / "saved"))
    (sample,) = load(Hub(path=str(tmp_path / "saved"), format="trl")).samples
    parts = decode(sample).examples["rejected"][0].prompt[0].parts
    assert [part.data.size for part in parts if part.kind == "image"] == [(8, 6), (9, 6)]
    assert parts[1].data == "or"


_PART = {"type": datasets.Value("string"), "text": datasets.Value("string")}


def test_bytes_win_over_a_path() -> None:
    row = changed(TRL, images=[{"bytes": png((9, 5)), "path": "gone.png"}, {"bytes": None, "path": "b.png"}])
    found = read_row(row, "x row 1", 0, "/root-of-data", known_formats("auto")).result
    assert isinstance(found, Record)
    first, _, second = found.sample.examples["chosen"][0].prompt[0].parts
    assert (first.data[:4], second.data.name) == (b"\x89PNG", "b.png")


def test_a_typed_marker_beside_pictures_is_refused(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "<image> What?"}]
    for row in (
        changed(TRL, prompt=turns),
        {"image": "a.png", "prompt": turns, "chosen": "a", "rejected": "b"},
    ):
        with pytest.raises(UserError, match="field 'prompt': holds a marker as text beside media"):
            read_rows(tmp_path, row)
