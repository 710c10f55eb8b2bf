"""Rows that builders of whole rows make: every shape of a canonical row is read as what it was made as."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmalign.builders import _media
from mmalign.builders._candidates import Asked
from mmalign.builders._new_rows import clips_as_given, is_readable, row_of
from mmalign.builders._whole_rows import NewRow
from mmalign.clips import Clip, Frames
from mmalign.data._media import decode
from mmalign.data._paths import File, RatedFile
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import Message, Part, PreferenceSample, UserError


def text(words: str) -> Part:
    return Part("text", words)


def picture(colour: str) -> Part:
    return Part("image", Image.new("RGB", (4, 3), colour))


def clip(count: int, first: int = 0) -> Clip:
    frames = (
        torch.arange(first, first + count, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 8, 6) * 20
    )
    return Clip(frames, tuple(range(count)), tuple(i / 4 for i in range(count)), 4.0, count, "memory")


def asked(*parts: Part) -> tuple[Message, ...]:
    return (Message("user", parts),)


RED, BLUE, CLIP = picture("red"), picture("blue"), Part("video", clip(3))
SEEN = asked(RED, text("What is it?"))
OTHER = asked(BLUE, text("What is it?"))
PLAIN = (Message("text", (text("see "), RED, text(" here"))),)
GOOD, BAD = text("a fox"), text("a dog")
PAIR = {"chosen": GOOD, "rejected": BAD}
SHAPES: dict[str, NewRow] = {
    "a pair": NewRow("x", SEEN, PAIR),
    "labels": NewRow("x", SEEN, PAIR, columns={"weight": 0.5, "margin": 2.0, "chosen_score": 3.0}),
    "three answers": NewRow("x", SEEN, {**PAIR, "bdhs": text("a cow")}),
    "blind alone": NewRow("x", SEEN, {"chosen": GOOD, "bdhs": BAD}),
    "retrieved": NewRow("x", SEEN, PAIR, {"chosen_retrieved": OTHER}),
    "retrieved, plain": NewRow(
        "x", PLAIN, PAIR, {"chosen_retrieved": (Message("text", (text("see "), BLUE, text(" here"))),)}
    ),
    "another picture on one side": NewRow("x", SEEN, {"chosen": GOOD, "rejected": GOOD}, {"rejected": OTHER}),
    "other words on one side": NewRow("x", SEEN, PAIR, {"chosen": asked(RED, text("Which animal?"))}),
    "no picture on one side": NewRow("x", SEEN, PAIR, {"rejected": asked(text("What is it?"))}),
    "a clip on one side": NewRow("x", SEEN, PAIR, {"rejected": asked(CLIP, text("What is it?"))}),
    "both": NewRow("x", SEEN, PAIR, {"rejected": asked(RED, RED, text("And?")), "chosen_retrieved": OTHER}),
    "one answer": NewRow("x", SEEN, {"chosen": GOOD}),
    "one labelled answer": NewRow("x", SEEN, {"completion": GOOD}, columns={"label": True}),
    "a list": NewRow("x", SEEN, {"responses": (GOOD, BAD, text("no"))}, columns={"scores": [3, 2, 1]}),
    "a prompt": NewRow("x", asked(CLIP, text("What moves?"))),
    "answers that are pictures": NewRow("x", asked(text("a fox")), {"chosen": RED, "rejected": BLUE}),
}


def read(new: NewRow, folder: Path) -> PreferenceSample:
    """The row as a source reads it back from its file, decoded."""
    (folder / "media").mkdir()
    row = row_of(new, folder, "r", {"model": "m"})
    assert row["id"] == "r/x" and row["built"] == {"prompt_id": "r", **new.told, "model": "m"}
    (folder / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    source = Jsonl(path=str(folder / "pairs.jsonl"), drop_identical=False)
    (sample,) = load(source, prompts=not new.answers).samples
    return decode(sample, Frames(count=8))


def same(one: Part, other: Part) -> bool:
    if one.kind == "video":
        return torch.equal(one.data.frames, other.data.frames)
    return bool(one.kind == other.kind and one.data == other.data)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_comes_back(name: str, tmp_path: Path) -> None:
    new = SHAPES[name]
    assert is_readable(new)
    sample = read(new, tmp_path)
    wanted: dict[str, Any] = {
        role: one if isinstance(one, tuple) else (one,) for role, one in new.answers.items()
    }
    if "chosen_retrieved" in new.prompts:
        wanted["chosen_retrieved"] = (GOOD,)
    if name == "blind alone":
        wanted["rejected"] = (BAD,)
    assert set(sample.examples) == set(wanted or {"prompt"})
    for role, examples in sample.examples.items():
        turns = new.prompts.get(role, new.prompt)
        for example, answer in zip(examples, wanted.get(role, (None,)), strict=True):
            for back, turn in zip(example.prompt, turns, strict=True):
                assert back.speaker == turn.speaker
                assert all(same(*two) for two in zip(back.parts, turn.parts, strict=True))
            assert answer is None or same(example.response[0], answer)
    assert sample.weight == new.columns.get("weight", 1.0)


@pytest.mark.parametrize(
    "new",
    [
        NewRow("x", asked(RED, text("where is <image> here?")), PAIR),
        NewRow("x", asked(RED, text("where is <image>?")), PAIR, {"chosen_retrieved": OTHER}),
        NewRow("x", SEEN, {"chosen": text(" "), "rejected": BAD}),
        NewRow("x", (Message("text", (text(" "),)),), PAIR),
    ],
)
def test_a_text_that_no_row_can_hold_is_noticed(new: NewRow) -> None:
    assert not is_readable(new)


@pytest.mark.parametrize(
    "new",
    [
        NewRow("x", SEEN, PAIR, columns={"wieght": 1.0}),
        NewRow("x", SEEN, {**PAIR, "worst": BAD}),
        NewRow("x", SEEN, {**PAIR, "bdhs": BAD}, {"bdhs": OTHER}),
    ],
)
def test_a_builder_that_invents_columns_is_stopped(new: NewRow) -> None:
    with pytest.raises(AssertionError, match="no canonical row has the columns|are read as"):
        is_readable(new)


# ---------------------------------------------------------------- clips


def test_a_clip_of_the_row_is_written_as_its_source_has_it(tmp_path: Path) -> None:
    (tmp_path / "whole.mkv").write_bytes(_media.encoded(Part("video", clip(6)), "test")[0])
    given = Asked("r", asked(Part("video", File(str(tmp_path), "whole.mkv")), text("old")))
    whole = clip(6)
    cut = Clip(whole.frames[::3], (0, 3), (0.0, 0.75), 4.0, 6, "pyav")
    seen = Part("video", cut)
    ready = Asked("r", asked(seen, text("old")))
    new = NewRow("x", asked(text("new"), seen), {}, {})
    with pytest.raises(UserError, match="only texts, pictures and whole clips"):
        row_of(new, tmp_path, "r", {})
    sample = read(clips_as_given(new, given, ready), tmp_path)
    (back,) = [part for part in sample.examples["prompt"][0].prompt[0].parts if part.kind == "video"]
    assert torch.equal(back.data.frames, whole.frames)
    alone = _media.whole_clip(cut)
    assert alone.rate == pytest.approx(4 / 3) and alone.total == 2 and torch.equal(alone.frames, cut.frames)
    other = tmp_path / "other"
    other.mkdir()
    (part,) = (
        read(NewRow("x", asked(Part("video", alone), text("two"))), other)
        .examples["prompt"][0]
        .prompt[0]
        .parts[:1]
    )
    assert torch.equal(part.data.frames, cut.frames)


def frames_in(folder: Path, count: int, size: tuple[int, int] = (6, 8)) -> None:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", size, (20 * number, 0, 0)).save(folder / f"{number}.png")


def test_a_folder_of_frames_is_written_as_a_clip(tmp_path: Path) -> None:
    frames_in(tmp_path / "clip", 11)
    part = Part("video", RatedFile(str(tmp_path), "clip", 5.0))
    (back, _) = (
        read(NewRow("x", asked(part, text("What moves?"))), tmp_path).examples["prompt"][0].prompt[0].parts
    )
    assert back.data.rate == pytest.approx(5.0) and back.data.total == 11
    reds = [int(frame[0, 0, 0]) for frame in back.data.frames]
    assert reds == [20 * place for place in Frames(count=8).choose(11, 5.0)]  # 10.png after 9.png
    Image.new("RGB", (3, 3)).save(tmp_path / "clip" / "5.png")
    with pytest.raises(UserError, match=r"prompt 'r', video 'clip': its frames have different sizes"):
        _media.store_part(tmp_path, "r", part, part)
