"""Rows of the pairs file that builders of whole rows make: any roles, in the columns of canonical rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmalign.builders import _media
from mmalign.builders._candidates import Asked
from mmalign.builders._rows import COLUMN, joined, prompt_fields
from mmalign.builders._whole_rows import NewRow
from mmalign.data._digest import digest
from mmalign.data._paths import File
from mmalign.data._records import PROMPT, read_record
from mmalign.types import Message, Part, UserError

UNWRITABLE = "made rows that would be read otherwise than they are"

_MANY = "responses"
_RETRIEVED = "chosen_retrieved"
_ROOT = "built"

Names = Callable[[Part], str]
"""What gives a picture or clip its file's name."""


def row_of(new: NewRow, folder: Path, name: str, origin: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the pairs file, made of the row called `name`; its media are written first."""
    row = _fields(new, lambda part: _media.store_part(folder, name, part, part))
    return {"id": f"{name}/{new.name}", **row, COLUMN: {"prompt_id": name, **new.told, **origin}}


def clips_as_given(new: NewRow, given: Asked, ready: Asked) -> NewRow:
    """The row with the clips of the one that it was made of as their source has them, and not as the frames
    that were chosen from them. `given` and `ready`: that row before and after decoding."""
    known = {
        id(seen.data): part
        for before, after in zip(_parts_of(given), _parts_of(ready), strict=True)
        for part, seen in zip(before, after, strict=True)
        if part.kind == "video"
    }

    def back(turns: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(
            Message(turn.speaker, tuple(known.get(id(part.data), part) for part in turn.parts))
            for turn in turns
        )

    prompts = {role: back(turns) for role, turns in new.prompts.items()}
    return replace(new, prompt=back(new.prompt), prompts=prompts)


def _parts_of(row: Asked) -> list[tuple[Part, ...]]:
    return [turn.parts for turn in row.turns]


def is_readable(new: NewRow) -> bool:
    """True if the row, once written, is read as what it was made as. A text may stand in the way: an empty
    one, or one with a marker such as <image>. Columns and roles are the builder's own doing, so asserted."""
    known: dict[int, tuple[Part, str]] = {}

    def named(part: Part) -> str:
        ending = ".png" if part.kind == "image" else ".mkv"
        return known.setdefault(id(part.data), (part, f"{len(known)}{ending}"))[1]

    try:
        record = read_record(_fields(new, named), f"row {new.name!r}", 0, _ROOT)
    except UserError:
        return False
    back = record.sample.examples
    assert record.unused == (), f"no canonical row has the columns {record.unused}"
    assert set(_roles(new)) <= set(back), f"roles {sorted(_roles(new))} are read as {sorted(back)}"
    return all(
        digest([(joined(one.prompt), one.response) for one in back[role]])
        == digest(
            [(_bound(new.prompts.get(role, new.prompt), named), (_file(one, named),)) for one in answers]
        )
        if answers
        else digest([joined(one.prompt) for one in back[role]]) == digest([_bound(new.prompt, named)])
        for role, answers in _roles(new).items()
    )


def _roles(new: NewRow) -> dict[str, tuple[Part, ...]]:
    """The answers of every role that the row has once it is read."""
    found = {role: one if isinstance(one, tuple) else (one,) for role, one in new.answers.items()}
    if _RETRIEVED in new.prompts:
        found[_RETRIEVED] = found["chosen"]
    return found or {PROMPT: ()}


def _bound(turns: tuple[Message, ...], named: Names) -> list[Message]:
    """The turns as they are read, their media being files."""
    return joined(
        tuple(Message(turn.speaker, tuple(_file(part, named) for part in turn.parts)) for turn in turns)
    )


def _file(part: Part, named: Names) -> Part:
    return part if part.kind == "text" else Part(part.kind, File(_ROOT, named(part)))


def _fields(new: NewRow, named: Names) -> dict[str, Any]:
    """The columns of a row, but for its id and how it came about."""
    if new.prompts:
        row = _placed(new, named)
    else:
        row = prompt_fields(new.prompt, [named(part) for part in _media_of(new.prompt)])
    for role, answer in new.answers.items():
        column = "completion" if set(new.answers) == {"chosen"} else role
        if isinstance(answer, tuple):
            assert role == _MANY, f"only the role {_MANY} has several answers, not {role}"
            row[column] = [_answer(one, named) for one in answer]
        else:
            row[column] = _answer(answer, named)
    return row | dict(new.columns)


def _answer(part: Part, named: Names) -> Any:
    return part.data if part.kind == "text" else {part.kind: named(part)}


def _media_of(turns: tuple[Message, ...]) -> list[Part]:
    return [part for turn in turns for part in turn.parts if part.kind != "text"]


def _placed(new: NewRow, named: Names) -> dict[str, Any]:
    """A prompt with places for its media, and for every role with a prompt of its own what is different."""
    row: dict[str, Any] = {"prompt": _places(new.prompt), **_lists(new.prompt, named)}
    for role, turns in new.prompts.items():
        if _places(turns) != row["prompt"]:
            row[f"prompt_{role}"] = _places(turns)
        prefix = "retrieved" if role == _RETRIEVED else role
        shared, own = _lists(new.prompt, named), _lists(turns, named)
        row |= {
            f"{prefix}_{key}": own.get(key, []) for key in shared | own if own.get(key) != shared.get(key)
        }
    return row


def _lists(turns: tuple[Message, ...], named: Names) -> dict[str, list[str]]:
    """The names of the pictures and clips, in the columns of either."""
    found: dict[str, list[str]] = {}
    for part in _media_of(turns):
        found.setdefault(f"{part.kind}s", []).append(named(part))
    return found


def _places(turns: tuple[Message, ...]) -> Any:
    """The turns without their media."""
    if turns[0].speaker == "text":
        return "".join(part.data if part.kind == "text" else f"<{part.kind}>" for part in turns[0].parts)
    return [
        {
            "role": turn.speaker,
            "content": [
                {"type": part.kind} | ({"text": part.data} if part.kind == "text" else {})
                for part in turn.parts
            ],
        }
        for turn in turns
    ]
