"""Broken rows of every format end in one line that names the row, the file's own column and the rule."""

import json
from pathlib import Path
from typing import Any

import pytest
from bad_inputs import png, write_rows
from data.format_rows import LLAVA, MS_SWIFT, PICK_A_PIC, RLHF_V, SHAREGPT, SOUND, TRL, changed, read_rows

from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError

PACKED = changed(RLHF_V, question=..., chosen=..., rejected=...)
ASKED = MS_SWIFT["messages"][:2]
BOSS = [{"from": "boss", "value": "<image>x"}]

BAD: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    # more or fewer pictures than places
    "trl, too few": ("trl", {**TRL, "images": ["a.png"]}, ("'images'", "1 images for 2 image places")),
    "trl, none": ("trl", changed(TRL, images=None), ("'images'", "0 images for 2 image places")),
    "trl, video": ("trl", changed(TRL, video="v.mp4"), ("'video'", "1 videos for 0 video places")),
    "trl, twice": (
        "trl",
        {**TRL, "prompt": [{"role": "user", "content": [{"type": "image", "image": "c.png"}]}]},
        ("'images'", "2 images beside 1 in the prompt"),
    ),
    "trl, answer": (
        "trl",
        {**TRL, "chosen": [{"role": "assistant", "content": [{"type": "image"}]}]},
        ("'chosen'", "'image' without a value"),
    ),
    "sharegpt, too many": (
        "sharegpt",
        {**SHAREGPT, "images": ["a.png", "b.png"]},
        ("'conversations'", "1 <image> markers for 2 images"),
    ),
    "sharegpt, no marker": (
        "sharegpt",
        {**SHAREGPT, "conversations": [{"from": "human", "value": "What is it?"}]},
        ("'conversations'", "0 <image> markers for 1 images"),
    ),
    "sharegpt, typed marker": (
        "sharegpt",
        changed(SHAREGPT, images=...),
        ("'conversations'", "1 <image> markers for 0 images"),
    ),
    "sharegpt, video": (
        "sharegpt",
        {**SHAREGPT, "videos": ["v.mp4"]},
        ("'conversations'", "0 <video> markers for 1 videos"),
    ),
    "sharegpt, marker in answer": (
        "sharegpt",
        {**SHAREGPT, "rejected": {"from": "gpt", "value": "A <image>."}},
        ("'rejected'", "its text has 1 <image> markers"),
    ),
    "ms_swift, too few": (
        "ms_swift",
        {**MS_SWIFT, "images": []},
        ("'messages'", "1 <image> markers for 0 images"),
    ),
    "ms_swift, marker in answer": (
        "ms_swift",
        {**MS_SWIFT, "rejected_response": "<video>"},
        ("'rejected_response'", "1 <video> markers"),
    ),
    "rlhf_v, two markers": (
        "rlhf_v",
        {**RLHF_V, "question": "<image> or <image>?"},
        ("'question'", "2 <image> markers for 1 images"),
    ),
    "llava, two for one": (
        "llava",
        {**LLAVA, "image": ["a.png", "b.png"]},
        ("'prompt'", "1 <image> markers for 2 images"),
    ),
    "llava, video for image": (
        "llava",
        changed(LLAVA, image=..., video="v.mp4"),
        ("'prompt'", "1 <image> markers for 0 images"),
    ),
    # media that are none
    "trl, null in list": ("trl", {**TRL, "images": ["a.png", None]}, ("images[1]", "no image (null)")),
    "trl, nested": ("trl", {**TRL, "images": [["a.png"], ["b.png"]]}, ("images[0]", "got a list")),
    "trl, too deep": ("trl", {**TRL, "images": [[["a.png"]], "b.png"]}, ("images[0]", "got a list")),
    "trl, number": ("trl", {**TRL, "images": ["a.png", 7]}, ("images[1]", "got int")),
    "trl, two columns": ("trl", {**TRL, "image": "a.png"}, ("'image'", "given beside images")),
    "trl, too many": (
        "trl",
        {**TRL, "prompt": "P", "images": ["a.png"] * 65},
        ("'images'", "65 images and videos", "limit is 64"),
    ),
    "sharegpt, nested": ("sharegpt", {**SHAREGPT, "images": [["a.png"]]}, ("images[0]", "got a list")),
    "sharegpt, null": ("sharegpt", {**SHAREGPT, "images": [None]}, ("images[0]", "null")),
    "sharegpt, too many of them": (
        "sharegpt",
        {
            **SHAREGPT,
            "images": ["a.png"] * 65,
            "conversations": [{"from": "human", "value": "<image>" * 65}],
        },
        ("'images'", "65 images and videos"),
    ),
    "ms_swift, image": ("ms_swift", {**MS_SWIFT, "rejected_images": [None]}, ("rejected_images[0]", "null")),
    "rlhf_v, no image": ("rlhf_v", {**RLHF_V, "image": None}, ("'image'", "no image (null)")),
    "rlhf_v, empty image": ("rlhf_v", {**RLHF_V, "image": {"bytes": None}}, ("'image'", "null")),
    "rlhf_v, list": ("rlhf_v", {**RLHF_V, "image": ["a.png"]}, ("'image'", "got a list")),
    "llava, null": ("llava", {**LLAVA, "image": [None]}, ("image[0]", "null")),
    "llava, both": (
        "llava",
        {**LLAVA, "conversations": [], "rejected_conversations": []},
        ("'prompt'", "beside conversations"),
    ),
    "llava, blank": ("llava", {**LLAVA, "rejected": " "}, ("'rejected'", "empty")),
    "pick_a_pic, no picture": ("pick_a_pic", {**PICK_A_PIC, "jpg_1": None}, ("'jpg_1'", "null")),
    # texts and turns
    "sharegpt, role": ("sharegpt", {**SHAREGPT, "conversations": BOSS}, ("conversations[0]", "'boss'")),
    "sharegpt, ends with gpt": (
        "sharegpt",
        {**SHAREGPT, "conversations": [*SHAREGPT["conversations"], SHAREGPT["chosen"]]},
        ("'conversations'", "must end with the user"),
    ),
    "sharegpt, empty": ("sharegpt", {**SHAREGPT, "conversations": []}, ("'conversations'", "list of turns")),
    "sharegpt, no turns": (
        "sharegpt",
        {**SHAREGPT, "conversations": "x"},
        ("'conversations'", "list of turns"),
    ),
    "sharegpt, null answer": ("sharegpt", {**SHAREGPT, "chosen": None}, ("'chosen'", "null")),
    "sharegpt, user answers": (
        "sharegpt",
        {**SHAREGPT, "chosen": {"from": "human", "value": "x"}},
        ("'chosen'", "must end with the assistant"),
    ),
    "sharegpt, tools": ("sharegpt", {**SHAREGPT, "tools": "[{}]"}, ("'tools'", "not supported")),
    "sharegpt, audio": ("sharegpt", {**SHAREGPT, "audios": ["a.wav"]}, ("'audios'", "not supported")),
    "ms_swift, short": ("ms_swift", {**MS_SWIFT, "messages": ASKED[1:]}, ("'messages'", "two turns")),
    "ms_swift, no answer": (
        "ms_swift",
        {**MS_SWIFT, "messages": [*ASKED, {"role": "user", "content": "x"}]},
        ("'messages'", "must end with the assistant"),
    ),
    "ms_swift, null": ("ms_swift", {**MS_SWIFT, "rejected_response": None}, ("'rejected_response'", "null")),
    "ms_swift, blank": ("ms_swift", {**MS_SWIFT, "rejected_response": " "}, ("'rejected_response'", "empty")),
    "ms_swift, objects": ("ms_swift", {**MS_SWIFT, "objects": {"bbox": [[1]]}}, ("'objects'", "supported")),
    "rlhf_v, no JSON": ("rlhf_v", {**PACKED, "text": "{'question': 1}"}, ("'text'", "not valid JSON")),
    "rlhf_v, no answer": (
        "rlhf_v",
        {**PACKED, "text": json.dumps({"question": "x", "chosen": "y"})},
        ("'text.rejected'", "null"),
    ),
    "rlhf_v, no question": ("rlhf_v", {**PACKED, "text": "{}"}, ("'text.question'", "null")),
    "rlhf_v, blank": ("rlhf_v", {**RLHF_V, "question": " "}, ("'question'", "empty")),
    "pick_a_pic, caption": ("pick_a_pic", {**PICK_A_PIC, "caption": None}, ("'caption'", "null")),
    "pick_a_pic, blank": ("pick_a_pic", {**PICK_A_PIC, "caption": ""}, ("'caption'", "empty")),
    "pick_a_pic, label": ("pick_a_pic", {**PICK_A_PIC, "label_0": "1"}, ("'label_0'", "number")),
}


@pytest.mark.parametrize("name", BAD)
def test_broken_rows_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    kind, row, words = BAD[name]
    with pytest.raises(UserError) as caught:
        read_rows(tmp_path, SOUND[kind], row)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    for word in ("x.jsonl row 2, field ", *words):
        assert word in message


@pytest.mark.parametrize("name", BAD)
def test_broken_rows_are_skipped_by_name(name: str, tmp_path: Path) -> None:
    kind, row, _ = BAD[name]
    report = read_rows(tmp_path, SOUND[kind], row, on_error="skip").report
    assert (report.kept, [one.origin for one in report.skipped]) == (1, ["x.jsonl row 2"])


MEDIA = {
    "trl": "images",
    "sharegpt": "images",
    "ms_swift": "images",
    "rlhf_v": "image",
    "llava": "image",
    "pick_a_pic": "jpg_1",
}


@pytest.mark.parametrize(
    "value", ["https://example.com/a.png", "data:image/png;base64,iVBORw0KGgo=", "/etc/x", "../a.png"]
)
@pytest.mark.parametrize("kind", MEDIA)
def test_addresses_and_outside_files_are_never_opened(kind: str, value: str, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    given = SOUND[kind][MEDIA[kind]]
    row = {**SOUND[kind], MEDIA[kind]: [*given[:-1], value] if isinstance(given, list) else value}
    sound, bad = load(Jsonl(path=str(write_rows(tmp_path / "x.jsonl", [SOUND[kind], row])))).samples
    decode(sound)
    with pytest.raises(UserError, match="x.jsonl row 2, role .*(is an address|outside data.root)") as caught:
        decode(bad)
    assert "\n" not in str(caught.value)


def test_the_same_picture_may_come_twice(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (sample,) = read_rows(tmp_path, {**TRL, "images": ["a.png", "a.png"]}).samples
    parts = decode(sample).examples["chosen"][0].prompt[0].parts
    assert parts[0].data is parts[2].data
