"""LLaVA-Hound and TPO rows (arXiv 2404.01258, 2501.13919): a clip, a question, its answer, two candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import refuse_markers, user_turn
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_CLIP = "video"
_PICTURES = ("image", "frame", "image_path")
_SIDES = ("chosen", "rejected")
_SCORES = tuple(f"{side}_score" for side in _SIDES)
_RATE = 2.0  # frames per second at which the set's folders of frames were cut


@dataclass(frozen=True)
class LlavaHound(Format):
    """`video` (a clip or a folder of its frames) or a picture (`image`, `frame` or `image_path`), `prompt`,
    `answer`, `chosen`, `rejected`, and `chosen_score` and `rejected_score` where given.

    One marker in the prompt, wherever it stands, is taken out and the medium comes first. The correct
    `answer` is not trained on. Folders hold frames of 2 per second unless `fps` says otherwise.
    """

    columns = LABELS | {_CLIP, *_PICTURES, "prompt", "answer", "fps", *_SIDES, *_SCORES}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The medium, the question, its answer and the candidates."""
        medium = next((name for name in (_CLIP, *_PICTURES) if name in row), None)
        needed = ("prompt", "answer", *_SIDES)
        return (medium, *needed) if medium and all(name in row for name in needed) else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The question as a user's turn with the medium in front."""
        made = {key: row[key] for key in (*LABELS, *_SCORES) if row.get(key) is not None}
        medium = next((name for name in (_CLIP, *_PICTURES) if row.get(name) is not None), _CLIP)
        kind = "video" if medium == _CLIP else "image"
        value = row.get(medium)
        if kind == "video" and isinstance(value, str):
            value = {"path": value, "fps": _RATE if row.get("fps") is None else row["fps"]}
        reader.media(value, "video" if medium == _CLIP else "image", medium)
        made[f"{kind}s"] = [value]
        made["prompt"] = user_turn(row.get("prompt"), "prompt", {kind: 1}, reader, strip=True)
        made |= {side: refuse_markers(row.get(side), side, reader) for side in _SIDES}
        return Converted(made, {f"{kind}s": medium})
