"""LLaMA-Factory rows: markers, both kinds of tags, system, single answers, the published demonstrations."""

from pathlib import Path

import pytest
from data.format_rows import SHAREGPT, answer_of, changed, prompt_of, read_rows

from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError


def test_markers_become_the_pictures_and_no_character_is_lost(tmp_path: Path) -> None:
    data = read_rows(tmp_path, SHAREGPT)
    (sample,) = data.samples
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "\nWhat is it?")]
    assert [answer_of(sample, role) for role in ("chosen", "rejected")] == ["A cat.", "A dog."]
    assert data.report.lines()[0].endswith("read as sharegpt rows (conversations, chosen, rejected)")


def test_several_turns_with_pictures_and_videos(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "<image><image> then <video>?"},
        {"from": "gpt", "value": "Yes."},
        {"from": "human", "value": "And <image>?"},
    ]
    media = {"images": ["a.png", "b.png", "a.png"], "videos": ["v.mp4"], "system": "S"}
    (sample,) = read_rows(tmp_path, changed(SHAREGPT, conversations=turns, **media)).samples
    assert prompt_of(sample, "rejected") == [
        ("system", "S"),
        ("user", "image:a.png", "image:b.png", " then ", "video:v.mp4", "?"),
        ("assistant", "Yes."),
        ("user", "And ", "image:a.png", "?"),
    ]


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_role_and_content_tags(tmp_path: Path, column: str) -> None:
    row = {
        column: [{"role": "user", "content": "<image>\nWhat is it?"}],
        "chosen": {"role": "assistant", "content": "A cat."},
        "rejected": {"role": "assistant", "content": "A dog."},
        "images": ["a.png"],
        "system": "",
    }
    data = read_rows(tmp_path, row)
    assert data.samples[0].examples == read_rows(tmp_path, SHAREGPT).samples[0].examples
    assert f"sharegpt rows ({column}, chosen, rejected)" in data.report.lines()[0]


def test_other_names_of_columns(tmp_path: Path) -> None:
    row = changed(SHAREGPT, conversations=..., dialog=SHAREGPT["conversations"])
    (sample,) = read_rows(tmp_path, row, columns={"conversations": "dialog"}).samples
    assert prompt_of(sample, "chosen")[0][1] == "image:a.png"


def test_single_answers(tmp_path: Path) -> None:
    turns = [*SHAREGPT["conversations"], SHAREGPT["chosen"]]
    row = {"conversations": turns, "kto_tag": False, "images": ["a.png"]}
    data = read_rows(tmp_path, row)
    (sample,) = data.samples
    assert prompt_of(sample, "completion") == [("user", "image:a.png", "\nWhat is it?")]
    assert (answer_of(sample, "completion"), sample.labels["binary"]) == ("A cat.", 0.0)
    with pytest.raises(UserError, match="field 'kto_tag': must be true or false, got 'good'"):
        read_rows(tmp_path, {**row, "kto_tag": "good"})
    with pytest.raises(UserError, match="field 'kto_tag': given beside chosen"):
        read_rows(tmp_path, {**row, "chosen": turns[-1]})


def test_published_demonstrations(test_data: Path) -> None:
    for name, count in (("dpo_en_demo", 185), ("dpo_zh_demo", 80)):
        report = load(Jsonl(path=str(test_data / "text" / f"{name}.json"))).report
        assert report.formats == {"sharegpt": report.rows} and not report.skipped
        assert report.kept == report.rows == count
