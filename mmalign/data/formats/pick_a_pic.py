"""Pick-a-Pic v1 and v2 rows (arXiv 2305.01569): a caption, two pictures, and which of them was picked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format, LeftOut
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_PICTURES = ("jpg_0", "jpg_1")
_VERDICTS = ("label_0", "label_1")


@dataclass(frozen=True)
class PickAPic(Format):
    """`caption`, `jpg_0`, `jpg_1` and `label_0`, `label_1`: 1 and 0 for the picked one, 0.5 each for a tie.

    A tie keeps the order of the pictures and carries the label tie. Rows that nobody judged (`has_label`
    false, labels null) are left out and counted. `label_1` may be missing; `user_id` becomes the user.
    """

    columns = (LABELS - {"tie", "user"}) | {"caption", "has_label", "user_id", *_PICTURES, *_VERDICTS}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The caption, the pictures and the verdict."""
        needed = ("caption", *_PICTURES, "label_0")
        return needed if all(name in row for name in needed) else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted | LeftOut:
        """The picked picture as the chosen answer to the caption."""
        if row.get("has_label") is False or all(row.get(name) is None for name in _VERDICTS):
            return LeftOut("without a label")
        verdict = self._verdict(row, reader)
        reader.text(row.get("caption"), "caption")
        for name in _PICTURES:
            reader.media(row.get(name), "image", name)
        chosen, rejected = _PICTURES if verdict >= 0.5 else _PICTURES[::-1]
        made = {key: row[key] for key in LABELS if key in self.columns and row.get(key) is not None}
        made |= {"prompt": row["caption"], "tie": verdict == 0.5, "user": row.get("user_id")}
        made |= {"chosen_image": row[chosen], "rejected_image": row[rejected]}
        names = {"prompt": "caption", "user": "user_id", "chosen": chosen, "rejected": rejected}
        return Converted(made, names)

    def _verdict(self, row: Mapping[str, Any], reader: Reader) -> float:
        first = reader.number(row.get("label_0"), "label_0")
        second = row.get("label_1")
        other = 1 - first if second is None else reader.number(second, "label_1")
        if first not in (0, 0.5, 1) or first + other != 1:
            rule = f"beside label_1 must be 1 and 0, 0 and 1 or 0.5 and 0.5, got {first:g} and {other:g}"
            raise reader.fail("label_0", rule)
        return first
