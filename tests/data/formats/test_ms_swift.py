"""ms-swift rows: a rejected answer or conversation, own media on the rejected side, single answers."""

from pathlib import Path

import pytest
from data.format_rows import MS_SWIFT, answer_of, changed, prompt_of, read_rows

from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError

PROMPT = [("system", "Be brief."), ("user", "image:a.png", "What is it?")]


def test_rejected_response(tmp_path: Path) -> None:
    data = read_rows(tmp_path, MS_SWIFT)
    (sample,) = data.samples
    assert prompt_of(sample, "chosen") == prompt_of(sample, "rejected") == PROMPT
    assert [answer_of(sample, role) for role in ("chosen", "rejected")] == ["A cat.", "A dog."]
    assert data.report.lines()[0].endswith("read as ms_swift rows (messages, rejected_response)")


def test_other_pictures_on_the_rejected_side(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, {**MS_SWIFT, "rejected_images": ["b.png"]}).samples
    assert prompt_of(sample, "chosen") == PROMPT
    assert prompt_of(sample, "rejected")[1] == ("user", "image:b.png", "What is it?")
    rule = "field 'messages': 1 <image> markers for 2 images"
    with pytest.raises(UserError, match=rule):
        read_rows(tmp_path, {**MS_SWIFT, "rejected_images": ["b.png", "c.png"]})


def test_rejected_messages_may_differ_from_the_first_turn_on(tmp_path: Path) -> None:
    other = [
        {"role": "user", "content": "<video>And <image>?"},
        {"role": "assistant", "content": "Hm."},
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": "A dog."},
    ]
    row = changed(MS_SWIFT, rejected_response=..., rejected_messages=other, rejected_videos=["v.mp4"])
    (sample,) = read_rows(tmp_path, row).samples
    assert prompt_of(sample, "chosen") == PROMPT
    assert prompt_of(sample, "rejected") == [
        ("user", "video:v.mp4", "And ", "image:a.png", "?"),
        ("assistant", "Hm."),
        ("user", "So?"),
    ]
    assert answer_of(sample, "rejected") == "A dog."
    told = "data: 1 pairs whose sides answer different words; the last turn of either alone is scored"
    assert told in read_rows(tmp_path, row).report.lines()


def test_messages_that_leave_out_the_marker_have_the_same_prompt(tmp_path: Path) -> None:
    other = [*MS_SWIFT["messages"][:1], {"role": "user", "content": "What is it?"}]
    other += [{"role": "assistant", "content": "A dog."}]
    two = {"images": ["a.png", "b.png"]}
    marked = [{"role": "user", "content": "1<image>2<image>"}, {"role": "assistant", "content": "x"}]
    plain = [{"role": "user", "content": "1 2"}, {"role": "assistant", "content": "y"}]
    first = changed(MS_SWIFT, rejected_response=..., rejected_messages=other)
    second = changed(MS_SWIFT, rejected_response=..., messages=marked, rejected_messages=plain, **two)
    for row, front in ((first, PROMPT), (second, [("user", "1", "image:a.png", "2", "image:b.png")])):
        (sample,) = read_rows(tmp_path, row).samples
        assert prompt_of(sample, "chosen") == prompt_of(sample, "rejected") == front


def test_without_markers_the_media_come_first(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]
    row = changed(MS_SWIFT, messages=messages, videos=["v.mp4"])
    (sample,) = read_rows(tmp_path, row).samples
    assert prompt_of(sample, "rejected") == [("user", "image:a.png", "video:v.mp4", "What?")]


def test_single_answers(tmp_path: Path) -> None:
    data = read_rows(tmp_path, changed(MS_SWIFT, rejected_response=..., label=True))
    (sample,) = data.samples
    assert prompt_of(sample, "completion") == PROMPT
    assert (answer_of(sample, "completion"), sample.labels["binary"]) == ("A cat.", 1.0)


def test_published_single_answers(test_data: Path) -> None:
    data = load(Jsonl(path=str(test_data / "text" / "kto_en_demo.json")))
    assert data.report.formats == {"ms_swift": data.report.rows} and len(data.samples) == 211
    assert {sample.labels["binary"] for sample in data.samples} == {0.0, 1.0}
