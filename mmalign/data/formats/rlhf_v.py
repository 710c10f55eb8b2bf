"""RLHF-V, RLAIF-V, SPA-VL rows (arXiv 2312.00849, 2405.17220, 2406.12030): image, question, two answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import place_markers, refuse_markers
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_TEXTS = ("question", "chosen", "rejected")
_IMAGES = ("image", "image_path")


@dataclass(frozen=True)
class RlhfV(Format):
    """`image` (or `image_path` where that is null) with question, chosen and rejected: as columns, or as the
    JSON object in `text`. The question becomes a user's turn with the image in front, or where it says
    `<image>`."""

    columns = LABELS | {*_TEXTS, *_IMAGES, "text"}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The image and the texts."""
        image = next((name for name in _IMAGES if name in row), None)
        if image is None or "prompt" in row:
            return ()
        if all(name in row for name in _TEXTS):
            return (image, *_TEXTS)
        text = row.get("text")
        like_json = isinstance(text, Mapping) or (isinstance(text, str) and text.lstrip()[:1] == "{")
        return (image, "text") if like_json and "chosen" not in row else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The question as the prompt, the image as its only picture."""
        packed = not any(row.get(name) is not None for name in _TEXTS)
        texts = _unpacked(row.get("text"), reader) if packed else row
        where = {name: f"text.{name}" if packed else name for name in _TEXTS}
        image = next((name for name in _IMAGES if row.get(name) is not None), _IMAGES[0])
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        reader.media(row.get(image), "image", image)
        made["images"] = [row[image]]
        question = reader.text(texts.get("question"), where["question"])
        if not question.strip():
            raise reader.fail(where["question"], "is empty; a prompt needs text")
        turns = [{"role": "user", "content": question}]
        made["prompt"] = place_markers(turns, where["question"], {"image": 1}, reader, front=True)
        for role in ("chosen", "rejected"):
            made[role] = refuse_markers(texts.get(role), where[role], reader)
        names = {"prompt": where["question"], "chosen": where["chosen"], "rejected": where["rejected"]}
        return Converted(made, names | {"images": image})


def _unpacked(text: Any, reader: Reader) -> Mapping[str, Any]:
    if isinstance(text, Mapping):
        return text
    try:
        found = json.loads(reader.text(text, "text"))
    except json.JSONDecodeError as error:
        raise reader.fail("text", f"not valid JSON at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise reader.fail("text", "nested too deeply") from None
    if not isinstance(found, dict):
        raise reader.fail("text", "must be a JSON object with question, chosen and rejected")
    return found
