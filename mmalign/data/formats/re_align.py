"""Re-Align rows (arXiv 2502.13146): a pair, and beside its picture a similar one that was retrieved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import (
    count_media,
    cut_answer,
    medium_first,
    place_markers,
    refuse_markers,
    same_prompt,
    user_turn,
)
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class ReAlign(Format):
    """`image`, `retrieved_image`, and `chosen` and `rejected`: whole conversations, or texts with a `prompt`.

    The retrieved picture stands in the place of the other in a third role, `chosen_retrieved`, with the
    chosen answer. A marker `<image>` is the picture's place; without one it comes first, and so does that of
    conversations, wherever its turn has it. Conversations may differ in their last turns alone.
    """

    columns = LABELS | {"image", "retrieved_image", "prompt", *_SIDES}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Both pictures and both answers."""
        needed = ("image", "retrieved_image", *_SIDES)
        if not all(name in row for name in needed):
            return ()
        return (*needed, "prompt") if "prompt" in row else needed

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The conversations as prompts and answers, the pictures as lists of one."""
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        names = {"images": "image", "retrieved_images": "retrieved_image"}
        for many, one in names.items():
            reader.media(row.get(one), "image", one)
            made[many] = [row[one]]
        media = count_media(made, image="images")
        if row.get("prompt") is not None:
            made["prompt"] = self._prompt(row["prompt"], media, reader)
            made |= {side: refuse_markers(row.get(side), side, reader) for side in _SIDES}
            return Converted(made, names)
        asked = {}
        for side in _SIDES:
            asked[side], made[side] = cut_answer(row.get(side), side, reader)
        shared = medium_first(same_prompt(asked, media, reader), media)
        made["prompt"] = place_markers(shared, "chosen", media, reader, front=True)
        return Converted(made, names | {"prompt": "chosen"})

    def _prompt(self, prompt: Any, media: Mapping[str, int], reader: Reader) -> Any:
        if isinstance(prompt, (list, tuple)):
            return place_markers(prompt, "prompt", media, reader, front=True)
        return user_turn(prompt, "prompt", media, reader)
