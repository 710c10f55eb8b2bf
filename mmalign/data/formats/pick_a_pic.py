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
_UIDS = ("best_image_uid", "image_0_uid", "image_1_uid")


@dataclass(frozen=True)
class PickAPic(Format):
    """`caption`, `jpg_0`, `jpg_1` and `label_0`, `label_1`: 1 and 0 for the picked one, 0.5 each for a tie.

    Both versions have these columns. A tie keeps the order of the pictures and carries the label tie. Rows
    that nobody judged (`has_label` false, labels null) are left out and counted. `label_1` may be missing;
    without both labels `best_image_uid` tells ("tie", or one of `image_0_uid` and `image_1_uid`). `user_id`
    becomes the user. The copies without pictures hold only addresses, and are refused.
    """

    columns = (LABELS - {"tie", "user"}) | {"caption", "has_label", "user_id", *_PICTURES, *_VERDICTS, *_UIDS}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The caption, the pictures (or their ids) and the verdict."""
        verdict = "label_0" if "label_0" in row else "best_image_uid"
        pictures = _PICTURES if any(name in row for name in _PICTURES) else _UIDS[1:]
        needed = ("caption", *pictures, verdict)
        return needed if all(name in row for name in needed) else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted | LeftOut:
        """The picked picture as the chosen answer to the caption."""
        labelled = any(name in row for name in _VERDICTS)
        if row.get("has_label") is False or (labelled and all(row.get(name) is None for name in _VERDICTS)):
            return LeftOut("without a label")
        verdict = self._verdict(row, reader) if labelled else self._by_uid(row, reader)
        if not any(name in row for name in _PICTURES):
            rule = "is missing: this copy of the data has addresses only; get the one with pictures"
            raise reader.fail("jpg_0", rule)
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

    def _by_uid(self, row: Mapping[str, Any], reader: Reader) -> float:
        best, *others = (row.get(name) for name in _UIDS)
        if best == "tie" or (best is not None and best == others[0] == others[1]):
            return 0.5
        if best is None or best not in others:
            raise reader.fail(_UIDS[0], f"must be tie or one of the two pictures' ids, got {best!r}")
        return 1.0 if best == others[0] else 0.0
