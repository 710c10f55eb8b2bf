"""LLaMA-Factory preference rows: conversations of {from, value}, chosen and rejected turns, media lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import count_media, cut_answer, place_markers, refuse_markers
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_TURNS = ("conversations", "messages")


@dataclass(frozen=True)
class Sharegpt(Format):
    """`conversations` (or `messages`) with `chosen` and `rejected`, or with `kto_tag` for a single answer.

    Turns are {from: human | gpt | system, value} or {role, content}. Every `<image>` or `<video>` inside them
    stands for the next of `images` or `videos`; the counts must be equal. Tools and audio are refused.
    """

    columns = LABELS | {*_TURNS, "chosen", "rejected", "kto_tag", "system", "images", "videos"}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The turns and the answers, or the turns and `kto_tag`; a row with a prompt is none of these."""
        turns = next((name for name in _TURNS if name in row), None)
        if turns is None or "prompt" in row:
            return ()
        if "kto_tag" in row:
            return (turns, "kto_tag")
        given = "chosen" in row and "rejected" in row
        whole = isinstance(row.get("chosen"), (list, tuple))  # a conversation of its own
        return (turns, "chosen", "rejected") if given and not whole else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The turns as the prompt, markers as places."""
        for name in ("audios", "tools"):
            if row.get(name):
                raise reader.fail(name, "is not supported; remove the column if the answers do not need it")
        name = next((one for one in _TURNS if row.get(one) is not None), _TURNS[0])
        turns = row.get(name)
        if not isinstance(turns, (list, tuple)) or not turns:
            raise reader.fail(name, "must be a list of turns {from, value} that is not empty")
        media = count_media(row, image="images", video="videos")
        made = {key: row[key] for key in (*LABELS, "system", "images", "videos") if key in row}
        names = {"prompt": name, "completion": name, "label": "kto_tag"}
        if row.get("system") == "":
            del made["system"]
        if row.get("kto_tag") is not None:
            if row.get("chosen") is not None or row.get("rejected") is not None:
                raise reader.fail("kto_tag", "given beside chosen and rejected; keep one")
            turns, made["completion"] = cut_answer(turns, name, reader)
            made["label"] = row["kto_tag"]
        else:
            for role in ("chosen", "rejected"):
                made[role] = refuse_markers(row.get(role), role, reader)
        made["prompt"] = place_markers(turns, name, media, reader)
        return Converted(made, names)
