"""Single pictures or clips with their captions, as in folders of pictures: for SFT, with a label for KTO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._paths import kind_of
from mmalign.data._records import LABELS, MARKS
from mmalign.data._turns import Reader

_MEDIA = ("file_name", "image", "video")
_CAPTIONS = ("text", "caption")
_EXCLUSIVE = ("exclusive_win", "exclusive_lose", "intersections")


@dataclass(frozen=True)
class ImageText(Format):
    """`file_name` (or `image`, `video`) and `text` or `caption`; `label` and `score` where given.

    What the file is, a picture or a clip, is told by the ending of `file_name`. The caption is the prompt.
    """

    columns = LABELS | {"label", "score", *_MEDIA, *_CAPTIONS}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """One medium and one caption, and no other text."""
        media = tuple(name for name in _MEDIA if name in row)
        caption = next((name for name in _CAPTIONS if isinstance(row.get(name), str)), None)
        foreign = {"prompt", "question", "conversations", "messages", *MARKS} & row.keys()
        if len(media) != 1 or caption is None or foreign or row[caption].lstrip()[:1] == "{":
            return ()
        return (media[0], caption)

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The medium as the answer to its caption."""
        caption = next((name for name in _CAPTIONS if row.get(name) is not None), _CAPTIONS[0])
        name = next((one for one in _MEDIA if row.get(one) is not None), _MEDIA[0])
        odd = next((one for one in ("label", "split") if row.get(one) in _EXCLUSIVE), None)
        if odd is not None:
            raise reader.fail(odd, f"{row[odd]!r} is read by source: diffusion_kto")
        value = row.get(name)
        kind = kind_of(reader.text(value, name)) if name == "file_name" else name
        made = {key: row[key] for key in (*LABELS, "label", "score") if row.get(key) is not None}
        made |= {"prompt": row.get(caption), "completion": {kind: value}}
        reader.text(row.get(caption), caption)
        return Converted(made, {"prompt": caption, "completion": name})
