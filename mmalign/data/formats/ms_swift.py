"""ms-swift rows: messages that end with the answer, the other answer beside them, media lists per side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import count_media, cut_answer, one_prompt, place_markers, refuse_markers
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_REJECTED = ("rejected_response", "rejected_messages")
_MEDIA = ("images", "videos", "rejected_images", "rejected_videos")


@dataclass(frozen=True)
class MsSwift(Format):
    """`messages` with `rejected_response` or `rejected_messages`; or with `label` for a single answer.

    Markers `<image>` and `<video>` in the turns stand for the media in order and are equal to them in number;
    without any marker the media come first. `rejected_images` and `rejected_videos` stand in the place of
    `images` and `videos` on the rejected side. Turns of `rejected_messages` before the answer may be others
    than those of `messages`; the last turn alone is scored, as where these rows come from. Tools, audio and
    grounding objects are refused.
    """

    columns = LABELS | {"messages", *_REJECTED, *_MEDIA, "label"}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The messages and what goes with them."""
        if "messages" not in row or "prompt" in row:
            return ()
        beside = tuple(name for name in (*_REJECTED, "label") if name in row)
        answers = {"chosen", "rejected", "completion"} & row.keys()
        return ("messages", *beside) if beside and not answers else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The last message as one answer, those before it as the prompt."""
        for name in ("audios", "rejected_audios", "tools", "rejected_tools", "objects", "rejected_objects"):
            if row.get(name):
                raise reader.fail(name, "is not supported; remove the column if the answers do not need it")
        made = {key: row[key] for key in (*LABELS, *_MEDIA) if row.get(key) is not None}
        prompt, answer = cut_answer(row.get("messages"), "messages", reader)
        media = count_media(row, image="images", video="videos")
        places = place_markers(prompt, "messages", media, reader, front=True)
        other = next((name for name in _REJECTED if row.get(name) is not None), None)
        if other is None and row.get("label") is not None:
            names = {"prompt": "messages", "completion": "messages"}
            answered = {"prompt": places, "completion": answer, "label": row["label"]}
            return Converted({**made, **answered}, names)
        if other is None:
            given = next((name for name in _REJECTED if name in row), _REJECTED[0])
            raise reader.fail(given, "is null" if given in row else "is missing")
        rejected_prompt, rejected = prompt, row[other]
        if other == "rejected_messages":
            rejected_prompt, rejected = cut_answer(rejected, other, reader)
        columns = {kind: f"rejected_{kind}s" for kind in ("image", "video")}
        own = {kind: name if row.get(name) is not None else f"{kind}s" for kind, name in columns.items()}
        field = other if other == "rejected_messages" else "messages"
        theirs = count_media(row, **own)
        if field == other and media == theirs:
            sides = {"messages": prompt, other: rejected_prompt}
            if (shared := one_prompt(sides, media, reader)) is not None:
                places, rejected_prompt = place_markers(shared, "messages", media, reader, front=True), shared
        made["prompt_rejected"] = place_markers(rejected_prompt, field, theirs, reader, front=True)
        made["prompt_chosen"], made["chosen"] = places, answer
        made["rejected"] = refuse_markers(rejected, other, reader)
        names = {"prompt_chosen": "messages", "chosen": "messages", "prompt_rejected": field}
        names["rejected"] = other
        return Converted(made, names)
