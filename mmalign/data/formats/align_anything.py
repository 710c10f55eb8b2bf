"""align-anything rows (arXiv 2412.15838): two responses and the better one, or a response refined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import rated, refuse_markers, user_turn
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_PROMPTS = ("question", "prompt")
_MEDIA = {"image": "image", "image_path": "image", "video": "video", "video_path": "video"}
_PAIR = ("response_1", "response_2")
_FEEDBACK = ("response", "critique", "refinement")


@dataclass(frozen=True)
class AlignAnything(Format):
    """`question` or `prompt`, with `image`, `image_path`, `video` or `video_path` where there is one, and
    `response_1`, `response_2` and `overall_response` (1 or 2, the better one, also as text; anything
    else is refused).

    Rows of language feedback hold `response`, `critique` and `refinement` instead: the refinement is chosen,
    the response rejected, and the critique is of that one, `rejected_critique`. A marker in the prompt is the
    medium's place; without one it comes first. `fps` is the rate of a clip that is a folder of frames.
    """

    columns = LABELS | {*_PROMPTS, *_MEDIA, *_PAIR, "overall_response", *_FEEDBACK, "fps"}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The prompt and the responses with their verdict, or the three texts of feedback."""
        prompt = next((name for name in _PROMPTS if name in row), None)
        if prompt is None:
            return ()
        for layout in ((*_PAIR, "overall_response"), _FEEDBACK):
            if all(name in row for name in layout):
                return (prompt, *(name for name in _MEDIA if name in row), *layout)
        return ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The better response as chosen."""
        prompt = next((name for name in _PROMPTS if row.get(name) is not None), _PROMPTS[0])
        given = [name for name in _MEDIA if row.get(name) is not None]
        if len(given) > 1:
            raise reader.fail(given[1], f"given beside {given[0]}; keep one")
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        names, media = {"prompt": prompt}, {"image": 0, "video": 0}
        for name in given:
            kind = _MEDIA[name]
            value = rated(row[name], row.get("fps")) if kind == "video" else row[name]
            reader.media(value, "video" if kind == "video" else "image", name)
            made[f"{kind}s"], names[f"{kind}s"], media[kind] = [value], name, 1
        made["prompt"] = user_turn(row.get(prompt), prompt, media, reader)
        chosen, rejected = self._sides(row, reader)
        for side, name in {"chosen": chosen, "rejected": rejected}.items():
            made[side], names[side] = refuse_markers(row.get(name), name, reader), name
        if rejected == "response" and row.get("critique") is not None:
            made["rejected_critique"], names["rejected_critique"] = row["critique"], "critique"
        return Converted(made, names)

    def _sides(self, row: Mapping[str, Any], reader: Reader) -> tuple[str, str]:
        if row.get("refinement") is not None:
            return "refinement", "response"
        better = row.get("overall_response")
        if isinstance(better, str) and better.strip() in ("1", "2"):
            better = int(better)
        if isinstance(better, bool) or better not in (1, 2):
            raise reader.fail("overall_response", f"must be 1 or 2, the better response, got {better!r}")
        return _PAIR if better == 1 else _PAIR[::-1]
