"""LLaVA-style rows (MIA-DPO, LLaVA-Hound, POVID): `image` or `video`, with markers inside plain prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import (
    count_media,
    cut_answer,
    has_markers,
    medium_first,
    place_markers,
    rated,
    refuse_markers,
    same_prompt,
    user_turn,
)
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_WHOLE = {"chosen": "conversations", "rejected": "rejected_conversations"}
_MEDIA = ("image", "video")


@dataclass(frozen=True)
class Llava(Format):
    """`prompt` with markers, `chosen` and `rejected` as texts (arXiv 2410.17637, 2404.01258); or
    `conversations` and `rejected_conversations` (arXiv 2402.11411), each ending with its answer.

    `image` and `video` hold one value or a list. Every `<image>` (or `<image-placeholder>`) or `<video>`
    stands for the next of them and the counts must be equal; without any marker the media come first, and so
    does a single one in conversations, wherever its turn has it. A prompt becomes a user's turn.
    Conversations may differ in their last turns alone. `fps` is the rate of folders of frames.
    """

    columns = LABELS | {"prompt", "chosen", "rejected", *_WHOLE.values(), *_MEDIA, "fps"}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The media, and a prompt with a marker or two conversations."""
        media = tuple(name for name in _MEDIA if name in row)
        if not media:
            return ()
        if all(name in row for name in _WHOLE.values()):
            return (*media, *_WHOLE.values())
        prompt, answers = row.get("prompt"), tuple(name for name in _WHOLE if name in row)
        marked = isinstance(prompt, str) and (has_markers(prompt) or "<image-placeholder>" in prompt)
        return (*media, "prompt", *answers) if marked and len(answers) == 2 else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """Markers as places, `image` and `video` as lists of media."""
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        names = {"images": "image", "videos": "video"}
        made |= {many: row[one] for many, one in names.items() if row.get(one) is not None}
        if "videos" in made:
            made["videos"] = rated(made["videos"], row.get("fps"))
        media = count_media(row, image="image", video="video")
        whole = [name for name in _WHOLE.values() if row.get(name) is not None]
        if whole and row.get("prompt") is not None:
            raise reader.fail("prompt", f"given beside {whole[0]}; keep one")
        if not whole:
            made["prompt"] = user_turn(row.get("prompt"), "prompt", media, reader)
            made |= {role: refuse_markers(row.get(role), role, reader) for role in _WHOLE}
            return Converted(made, names)
        asked = {}
        for role, name in _WHOLE.items():
            asked[name], made[role] = cut_answer(row.get(name), name, reader)
        shared = medium_first(same_prompt(asked, media, reader), media)
        made["prompt"] = place_markers(shared, _WHOLE["chosen"], media, reader, front=True)
        return Converted(made, names | _WHOLE | {"prompt": _WHOLE["chosen"]})
