"""Chat turns as a template is to get them: what it writes stands in the order of the row.

Several published templates (LLaVA-1.5, -NeXT, -OneVision, -NeXT-Video, Video-LLaVA) write all media of a turn
first and its texts behind them, so that "Image1: <image>, Image2: <image>" would lose its places. Such a turn
is handed over as one text that holds the family's placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, pairwise
from os.path import commonprefix
from typing import Any

from mmalign.adapters import _tokens
from mmalign.types import UserError

Turn = Mapping[str, Any]


def in_order(processor: Any, turns: Sequence[Turn], markers: Mapping[Any, str], where: str) -> list[Turn]:
    """The turns, lists of contents, changed only where the template would lose an order or double a break.

    A turn whose media and texts it moves becomes one text; where it breaks the line behind a medium itself,
    the break that the next text begins with is left out. `markers`: kind of media -> its placeholder. Raises
    UserError where the template writes other numbers of placeholders, or keeps no order at all.
    """
    signs = _with_signs(turns)
    shown = _tokens.render(processor, signs, where, answer=False)
    kinds = [content["type"] for turn in turns for content in turn["content"]]
    refuse_count(shown, kinds, markers, where)
    found = _unbroken(turns, shown, _places(shown, signs, markers))
    signs = _with_signs(found)
    shown = _tokens.render(processor, signs, where, answer=False)
    places = _places(shown, signs, markers)
    moved = [not _ascends(own) for own in places]
    if any(moved):
        inside = {kind: _written(processor, kind, marker, where) for kind, marker in markers.items()}
        mixed = [old if bad else new for old, new, bad in zip(turns, found, moved, strict=True)]
        signs = _with_signs(mixed)
        found, given = (
            [_one_text(turn, inside) if bad else turn for turn, bad in zip(some, moved, strict=True)]
            for some in (mixed, signs)
        )
        shown = _tokens.render(processor, given, where, answer=False)
        places = _places(shown, signs, markers)
    if not _ascends([place for own in places for place in own]):
        raise UserError(
            f"{where}: the chat template moves or leaves out texts or media; use another template or "
            "a plain prompt with model.plain_prompts: raw"
        )
    return found


def refuse_count(text: str, kinds: Sequence[str], markers: Mapping[Any, str], where: str) -> None:
    """Raise UserError unless a text holds one placeholder for each of the media, given by `kinds`."""
    for kind, marker in markers.items():
        if text.count(marker) != kinds.count(kind):
            raise UserError(
                f"{where}: has {kinds.count(kind)} {kind}s, but the chat template wrote {text.count(marker)} "
                f"placeholders {marker!r} for them"
            )


# ---------------------------------------------------------------- where a template writes what


def _with_signs(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with a sign in place of every text, which occurs nowhere else."""
    numbers = count()

    def signed(content: Mapping[str, str]) -> Mapping[str, str]:
        if content["type"] != "text":
            return content
        return {"type": "text", "text": f"\ue000{next(numbers)}\ue001"}

    return [{**turn, "content": [signed(content) for content in turn["content"]]} for turn in turns]


def _places(shown: str, signs: Sequence[Turn], markers: Mapping[Any, str]) -> list[list[int]]:
    """Where every content ends, turn by turn; -1 if it is not there."""
    media: dict[Any, Iterator[int]] = {
        kind: (one.end() for one in re.finditer(re.escape(marker), shown)) for kind, marker in markers.items()
    }

    def place(content: Mapping[str, str]) -> int:
        if content["type"] != "text":
            return next(media[content["type"]], -1)
        begin = shown.find(content["text"])
        return begin if begin < 0 else begin + len(content["text"])

    return [[place(content) for content in turn["content"]] for turn in signs]


def _ascends(places: Sequence[int]) -> bool:
    return -1 not in places and all(one < other for one, other in pairwise(places))


def _written(processor: Any, kind: str, marker: str, where: str) -> str:
    """What the template writes for a medium in front of a text, white space apart."""
    text, medium = {"type": "text", "text": "\ue000\ue001"}, {"type": kind}
    try:
        without, whole = (
            _tokens.render(processor, [{"role": "user", "content": contents}], where, answer=False)
            for contents in ([text], [medium, text])
        )
    except UserError:
        return marker
    begin = len(commonprefix([without, whole]))
    end = len(without) - begin  # characters behind the medium
    own = whole[begin : len(whole) - end]
    return own.strip() if whole.endswith(without[begin:]) and marker in own else marker


# ---------------------------------------------------------------- turns that are changed


def _unbroken(turns: Sequence[Turn], shown: str, places: Sequence[Sequence[int]]) -> list[Turn]:
    """The turns without line breaks behind media that the template writes itself."""
    found: list[Turn] = []
    for turn, own in zip(turns, places, strict=True):
        contents = list(turn["content"])
        for i, (before, after) in enumerate(pairwise(turn["content"])):
            breaks = before["type"] != "text" and own[i] >= 0 and shown.startswith("\n", own[i])
            if breaks and after.get("text", "").startswith("\n"):
                contents[i + 1] = {"type": "text", "text": after["text"][1:]}
        kept = [one for one, old in zip(contents, turn["content"], strict=True) if one == old or one["text"]]
        found.append({**turn, "content": kept})
    return found


def _one_text(turn: Turn, inside: Mapping[Any, str]) -> Turn:
    """The turn with its contents as one text, `inside` standing for its media."""
    text = "".join(
        content["text"] if content["type"] == "text" else inside[content["type"]]
        for content in turn["content"]
    )
    return {**turn, "content": [{"type": "text", "text": text}]}
