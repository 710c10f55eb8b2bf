"""TRL rows with media: prompt, chosen and rejected as text or turns, pictures in `images` or `image`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import has_markers, rated
from mmalign.data._records import CANONICAL, MARKS
from mmalign.data._turns import Reader

_SINGLE = {"image": "images", "video": "videos"}


@dataclass(frozen=True)
class Trl(Format):
    """Conversational or plain rows; `image` and `video` hold one value or a list, as `images` do.

    `fps` is the rate of clips that are folders of frames.

    Places are content parts {type: image}, filled in order; without any the pictures come first. Markers
    inside texts mean nothing in this format, so that a prompt with both markers and media is refused.
    """

    columns = CANONICAL | {*_SINGLE, "fps"}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Answers to a prompt, or whole conversations; with `image` or `video`, or with `images` if there are
        turns."""
        prompt = row.get("prompt")
        if isinstance(prompt, str) and _SINGLE.keys() & row.keys() and has_markers(prompt):
            return ()  # there the markers are places
        answers = tuple(sorted(MARKS & row.keys()))
        turns = any(_is_turns(row[name]) for name in answers)
        media = tuple(sorted(_SINGLE.keys() & row.keys())) or (
            ("images",) if turns and "images" in row else ()
        )
        return (*answers, *media) if answers and media and (turns or "prompt" in row) else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The same row with `image` as `images`."""
        made = {key: value for key, value in row.items() if key not in (*_SINGLE, "fps")}
        names = {}
        for single, many in _SINGLE.items():
            if row.get(single) is None:
                continue
            if row.get(many) is not None:
                raise reader.fail(single, f"given beside {many}; keep one")
            made[many], names[many] = row[single], single
        if made.get("videos") is not None:
            made["videos"] = rated(made["videos"], row.get("fps"))
        if any(row.get(name) is not None for name in (*_SINGLE, *_SINGLE.values())):
            for text in _texts(row.get("prompt")):
                if has_markers(text):
                    rule = "holds a marker as text beside media; write the place as a part {type: image}"
                    raise reader.fail("prompt", rule)
        return Converted(made, names)


def _is_turns(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], dict)


def _texts(prompt: Any) -> Iterator[str]:
    """Every text of a prompt: itself, contents of turns, text parts."""
    if isinstance(prompt, str):
        yield prompt
    elif isinstance(prompt, (list, tuple)):
        for item in prompt:
            if isinstance(item, dict):
                yield from _texts(item.get("content", item.get("text")))
