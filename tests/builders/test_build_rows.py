"""Rows of pairs are read back as what was sampled; what no row can hold is refused."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.groups import group
from PIL import Image

from mmalign.builders import _media
from mmalign.builders._candidates import Made, Paired
from mmalign.builders._rows import portable, prompt_fields, refuse_unwritable, rows_of
from mmalign.clips import Clip, Frames
from mmalign.data._paths import File
from mmalign.data._records import read_record
from mmalign.data._video import decode_video
from mmalign.types import Message, Part, UserError

PICTURE = Part("image", File("r", "0.png"))
OTHER = Part("image", File("r", "1.png"))


def text(words: str) -> Part:
    return Part("text", words)


CHAT = (
    Message("system", (text("Be brief."),)),
    Message("user", (PICTURE, text("What is this?"))),
    Message("assistant", (text("A cup."),)),
    Message("user", (text("And"), OTHER, text("this?"))),
)
PROMPTS: dict[str, tuple[Message, ...]] = {
    "caption": (Message("text", (text("a red star"),)),),
    "marker as text": (Message("text", (text("write <image> in html"),)),),
    "plain text with a picture": (Message("text", (text("here "), PICTURE, text(" it is"))),),
    "chat": (Message("user", (text("hello"),)),),
    "chat with pictures": CHAT,
    "a video": (Message("user", (Part("video", File("r", "0.png")), text("What moves?"))),),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_come_back_as_they_were(name: str) -> None:
    turns = PROMPTS[name]
    refuse_unwritable(name, turns)
    media = [part.data.name for turn in turns for part in turn.parts if part.kind != "text"]
    row = json.loads(json.dumps({**prompt_fields(turns, media), "chosen": "x", "rejected": "y"}))
    for example in read_record(row, "row", 0, "r").sample.examples.values():
        assert example[0].prompt == turns


def test_a_prompt_that_no_row_can_hold_is_refused() -> None:
    turns = (Message("user", (PICTURE, text("where is <image> here?"))),)
    with pytest.raises(UserError, match="marker"):
        refuse_unwritable("p", turns)
    empty = (Message("text", (text(" "),)),)
    with pytest.raises(UserError, match="prompt 'p', field 'prompt': is empty"):
        refuse_unwritable("p", empty)


def test_a_row_says_how_its_pair_came_about() -> None:
    paired = Paired(
        ({"score": 1.0}, {"score": 3.0, "style": 0.5}, None),
        (Made(1, 0, 2.0, weight=0.5), Made(0, 2, 0.0, tie=True)),
    )
    first, tie = rows_of(group("a", "b", "c"), paired, {"prompt": "say"}, {}, {"judge": {"name": "j"}})
    assert first == {
        "id": "p/1-0",
        "prompt": "say",
        "chosen": "b",
        "rejected": "a",
        "chosen_score": 3.0,
        "rejected_score": 1.0,
        "margin": 2.0,
        "weight": 0.5,
        "built": {
            "prompt_id": "p",
            "chosen": 1,
            "rejected": 0,
            "seeds": [100, 101, 102],
            "scores": [{"score": 1.0}, {"score": 3.0, "style": 0.5}, None],
            "judge": {"name": "j"},
        },
    }
    assert tie["tie"] is True and "rejected_score" not in tie and "weight" not in tie
    sample = read_record(first, "row", 0, ".").sample
    assert sample.weight == 0.5 and sample.labels == {"margin": 2.0}
    assert sample.examples["chosen"][0].labels == {"score": 3.0}


def test_paths_of_this_machine_are_cut(tmp_path: Path) -> None:
    tree: Any = {
        "path": str(tmp_path / "gone" / "model"),
        "hub": "org/name",
        "parts": [str(tmp_path), 3, None],
    }
    assert portable(tree) == {"path": "model", "hub": "org/name", "parts": [tmp_path.name, 3, None]}
    assert (
        portable("./runs/mine") == "mine" and portable("my_package.judges:Mine") == "my_package.judges:Mine"
    )


# ---------------------------------------------------------------- media


def clip(count: int, rate: float, size: tuple[int, int] = (20, 18)) -> Clip:
    frames = torch.randint(0, 256, (count, 3, *size), generator=torch.Generator().manual_seed(count))
    seconds = tuple(i / rate for i in range(count))
    return Clip(frames.to(torch.uint8), tuple(range(count)), seconds, rate, count, "memory")


def test_pictures_are_written_without_loss() -> None:
    picture = Image.effect_noise((33, 17), 90).convert("RGB")
    data, ending = _media.encoded(Part("image", picture), "here")
    assert ending == ".png" and Image.open(io.BytesIO(data)).tobytes() == picture.tobytes()
    assert data == _media.encoded(Part("image", picture.copy()), "here")[0]


@pytest.mark.parametrize(("count", "rate"), [(4, 4.0), (7, 29.97), (1, 8.0)])
def test_clips_are_written_without_loss(count: int, rate: float) -> None:
    given = clip(count, rate)
    data, ending = _media.encoded(Part("video", given), "here")
    back = decode_video(data, Frames(count=16))
    assert ending == ".mkv" and torch.equal(back.frames, given.frames)
    assert back.rate == pytest.approx(rate, rel=1e-3) and back.indices == given.indices
    assert data == _media.encoded(Part("video", given), "here")[0]


def test_some_frames_of_a_video_are_no_clip_to_write() -> None:
    whole = clip(4, 4.0)
    cut = Clip(whole.frames, (0, 3, 6, 9), (0.0, 0.3, 0.6, 0.9), 10.0, 12, "pyav")
    uneven = Clip(whole.frames, (0, 1, 2, 3), (0.0, 0.1, 0.9, 1.0), 4.0, 4, "pyav")
    for one in (cut, uneven):
        with pytest.raises(UserError, match="an answer: only texts, pictures and whole clips"):
            _media.encoded(Part("video", one), "an answer")
        with pytest.raises(UserError, match="prompt 'p': its video is in memory"):
            _media.refuse_unwritable("p", (Message("user", (Part("video", one),)),))
    _media.refuse_unwritable("p", (Message("user", (Part("video", whole),)),))


def test_prompt_media_are_stored_once_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    picture = Image.new("RGB", (8, 8), "red")
    (tmp_path / "v.mp4").write_bytes(b"bytes of a video")
    given = (
        Message("user", (Part("image", File("r", "0.png")), Part("video", File(str(tmp_path), "v.mp4")))),
        Message("assistant", (text("yes"),)),
        Message("user", (Part("image", File("r", "copy.png")),)),
    )
    ready = (
        Message("user", (Part("image", picture), Part("video", clip(2, 2.0)))),
        Message("assistant", (text("yes"),)),
        Message("user", (Part("image", picture.copy()),)),
    )
    names = _media.store_prompt(tmp_path, "p", given, ready)
    assert names[0] == names[2] != names[1] and names[1].endswith(".mp4")
    assert (tmp_path / names[1]).read_bytes() == b"bytes of a video"
    assert Image.open(tmp_path / names[0]).tobytes() == picture.tobytes()
    (tmp_path / "media" / "stale.png").write_bytes(b"x")
    _media.sweep(tmp_path, set(names))
    assert {f"media/{path.name}" for path in (tmp_path / "media").iterdir()} == set(names)
