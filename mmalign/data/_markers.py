"""Markers: `<image>` and `<video>` inside a text, in formats where they stand for the row's media in order.

Only formats that define them call this; elsewhere such a text is what somebody typed and stays text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmalign.data._paths import is_media
from mmalign.data._turns import MARKER, Reader


def count_media(row: Mapping[str, Any], **columns: str) -> dict[str, int]:
    """How many values the columns hold, {kind: count}; null counts as none, a single value as one."""
    counts = {}
    for kind, column in columns.items():
        given = row.get(column)
        counts[kind] = len(given) if isinstance(given, (list, tuple)) else int(given is not None)
    return counts


def rated(value: Any, fps: Any) -> Any:
    """One or several clips with `fps`, the rate that a row gives for folders of frames (None: it gives none).
    One that tells its own keeps it, and a file has its own clock."""
    if fps is None:
        return value
    if isinstance(value, (list, tuple)):
        return [rated(one, fps) for one in value]
    if isinstance(value, str):
        return value if is_media(value) else {"path": value, "fps": fps}
    if isinstance(value, Mapping) and value.get("fps") is None and value.get("bytes") is None:
        return {**value, "fps": fps}
    return value


def has_markers(text: str) -> bool:
    """Whether a text holds a marker."""
    return MARKER.search(text) is not None


def cut_answer(turns: Any, field: str, reader: Reader) -> tuple[Sequence[Any], Any]:
    """The turns of a prompt and the one that answers them, whose text may hold no marker."""
    if not isinstance(turns, (list, tuple)) or len(turns) < 2:
        raise reader.fail(field, "must be a list of at least two turns, the last of them the answer")
    return turns[:-1], refuse_markers(turns[-1], field, reader)


def place_markers(
    turns: Sequence[Any], field: str, media: Mapping[str, int], reader: Reader, front: bool = False
) -> list[Any]:
    """The turns with every marker as a part without a value, for the row's media to fill.

    `media` {kind: count}. With `front`, texts without any marker are left to take the media in front. Raises
    UserError with both counts if they differ. Turns that are broken are left to be refused later.
    """
    texts = [turn[key] for turn in turns if isinstance(turn, dict) and (key := _text_key(turn))]
    found = Counter(kind for text in texts for kind in MARKER.findall(text))
    if len(texts) < len(turns) or (front and not found):  # parts of their own: counted where they are filled
        return [_with_places(turn) for turn in turns]
    for kind in ("image", "video"):
        count = media.get(kind, 0)
        if found[kind] != count:
            rule = f"{found[kind]} <{kind}> markers for {count} {kind}s; every marker stands for one of them"
            if not count:
                rule += f", and the row has none in its column {kind}s"
            raise reader.fail(field, rule)
    return [_with_places(turn) for turn in turns]


def one_prompt(
    sides: Mapping[str, Sequence[Any]], media: Mapping[str, int], reader: Reader
) -> Sequence[Any] | None:
    """The turns of a prompt that both sides write, {field: turns}; None where their words differ.

    White space means nothing here, nor does the place of a single marker, nor one that a side leaves out:
    what the first side has counts, or the other where only that one has markers. Raises UserError for sides
    whose several markers stand at different places.
    """
    (name, first), (other, second) = sides.items()
    if [_wording(turn) for turn in first] != [_wording(turn) for turn in second]:
        return None
    marks = [sum(len(MARKER.findall(_text(turn))) for turn in turns) for turns in (first, second)]
    if 0 in marks:
        return second if marks[1] else first
    same = [_wording(turn, True) for turn in first] == [_wording(turn, True) for turn in second]
    if not same and (marks != [1, 1] or sum(media.values()) != 1):
        raise reader.fail(other, f"its markers stand at other places than those of {name}; make them equal")
    return first


def same_prompt(
    sides: Mapping[str, Sequence[Any]], media: Mapping[str, int], reader: Reader
) -> Sequence[Any]:
    """What `one_prompt` finds; UserError naming the first turn that differs where that is nothing."""
    found = one_prompt(sides, media, reader)
    if found is not None:
        return found
    (name, first), (other, second) = sides.items()
    told = [[_wording(turn) for turn in turns] for turns in (first, second)]
    equal = (one == two for one, two in zip(*told, strict=False))
    place = next((place for place, same in enumerate(equal, 1) if not same), min(map(len, told)) + 1)
    rule = f"turn {place} is not that of {name}; the last answers alone are compared, to one prompt: cut both"
    raise reader.fail(other, f"{rule} conversations behind the first answers that differ")


def user_turn(
    value: Any, field: str, media: Mapping[str, int], reader: Reader, strip: bool = False
) -> list[Any]:
    """A question as a chat of one user's turn, its markers as places for `media` {kind: count}.

    `<image-placeholder>` is another spelling of `<image>`. Without any marker the media come first. With
    `strip` a single marker of either kind beside a single medium is taken out wherever it stands, and the
    medium comes first. Raises UserError for a question without text and for counts that differ.
    """
    text = reader.text(value, field).replace("<image-placeholder>", "<image>")
    if strip and sum(media.values()) == 1 and len(MARKER.findall(text)) == 1:
        text = MARKER.sub("", text).strip()
    if not MARKER.sub("", text).strip():
        raise reader.fail(field, "is empty; a prompt needs text")
    return place_markers([{"role": "user", "content": text}], field, media, reader, front=True)


def medium_first(turns: Sequence[Any], media: Mapping[str, int]) -> list[Any]:
    """The turns with a single marker of a single medium in front of its turn, on a line of its own, wherever
    in the turn it stands: so LLaVA's training code has it, whose rows often end with it."""
    marked = [place for place, turn in enumerate(turns) for _ in MARKER.findall(_text(turn))]
    made = list(turns)
    if len(marked) == 1 and sum(media.values()) == 1:
        turn = turns[marked[0]]
        text = _text(turn)
        (kind,) = MARKER.findall(text)
        rest = MARKER.sub("", text).strip()
        made[marked[0]] = {**turn, _text_key(turn): f"<{kind}>\n{rest}" if rest else f"<{kind}>"}
    return made


def split_markers(text: str) -> list[dict[str, str]]:
    """Text and places as content parts, in order; no character but the markers is lost."""
    parts: list[dict[str, str]] = []
    for place, piece in enumerate(MARKER.split(text)):
        if place % 2:
            parts.append({"type": piece})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts


def refuse_markers(answer: Any, field: str, reader: Reader) -> Any:
    """The answer (a text or a turn) as it is; UserError if its text holds a marker, for which it has no
    media."""
    key = _text_key(answer) if isinstance(answer, dict) else None
    text = answer if key is None else answer[key]
    if isinstance(text, str) and (found := MARKER.findall(text)):
        rule = f"an answer holds no media, but its text has {len(found)} <{found[0]}> markers; remove them"
        raise reader.fail(field, rule)
    return answer


def _text_key(turn: Mapping[str, Any]) -> str | None:
    return next((key for key in ("content", "value") if isinstance(turn.get(key), str)), None)


def _text(turn: Any) -> str:
    key = _text_key(turn) if isinstance(turn, dict) else None
    return "" if key is None else turn[key]


def _wording(turn: Any, marked: bool = False) -> Any:
    """Who says what, without white space that means nothing, and unless `marked` without markers."""
    if not _text(turn):
        return turn
    text = MARKER.sub(r" <\1> " if marked else " ", _text(turn))
    return turn.get("role", turn.get("from")), " ".join(text.split())


def _with_places(turn: Any) -> Any:
    key = _text_key(turn) if isinstance(turn, dict) else None
    if key is None or not MARKER.search(turn[key]):
        return turn
    return {**turn, key: split_markers(turn[key])}
