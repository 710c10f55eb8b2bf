"""Rows of the pairs file: a prompt and two of its answers in the canonical format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.builders._candidates import Group, Paired
from mmalign.data._digest import digest
from mmalign.data._paths import File
from mmalign.data._records import read_record
from mmalign.data._turns import MARKER
from mmalign.rewards._scoring import TOTAL
from mmalign.types import Message, Part, UserError

COLUMN = "built"
"""The column of a row that says how its pair came about; training does not read it."""

_ROOT = "built"


def prompt_fields(turns: tuple[Message, ...], names: Sequence[str]) -> dict[str, Any]:
    """The columns of a row that hold these turns; `names` are the files of its media, in order.

    A plain text stays one, its media going into columns of their own; a chat is a list of turns.
    """
    files = iter(names)
    if turns[0].speaker == "text":
        found: dict[str, list[str]] = {"image": [], "video": []}
        text = ""
        for part in turns[0].parts:
            text += part.data if part.kind == "text" else f"<{part.kind}>"
            if part.kind != "text":
                found[part.kind].append(next(files))
        return {"prompt": text} | {f"{kind}s": listed for kind, listed in found.items() if listed}
    chat = []
    for turn in turns:
        parts = [_part(part, files) for part in turn.parts]
        plain = len(parts) == 1 and parts[0]["type"] == "text"
        chat.append({"role": turn.speaker, "content": parts[0]["text"] if plain else parts})
    return {"prompt": chat}


def _part(part: Part, files: Any) -> dict[str, Any]:
    return {"type": part.kind, part.kind: part.data if part.kind == "text" else next(files)}


def refuse_unwritable(name: str, turns: tuple[Message, ...]) -> None:
    """Raise UserError unless a row gives these very turns back when it is read."""
    names = [f"{i}.png" for i, part in enumerate(p for turn in turns for p in turn.parts if p.kind != "text")]
    files = iter(names)
    named = tuple(
        Message(
            turn.speaker,
            tuple(p if p.kind == "text" else Part(p.kind, File(_ROOT, next(files))) for p in turn.parts),
        )
        for turn in turns
    )
    row = {**prompt_fields(turns, names), "completion": "x"}
    back = read_record(row, f"prompt {name!r}", 0, _ROOT).sample.examples["chosen"][0].prompt
    if digest(joined(back)) == digest(joined(named)):
        return
    marked = any(p.kind == "text" and MARKER.search(p.data) for turn in turns for p in turn.parts)
    reason = "its text holds a marker such as <image>" if marked else "its turns would be read otherwise"
    raise UserError(f"prompt {name!r}: no row can hold it ({reason}); reword it")


def joined(turns: tuple[Message, ...]) -> list[Message]:
    """The turns with neighbouring texts as one, which is how they are read again."""
    done = []
    for turn in turns:
        parts: list[Part] = []
        for part in turn.parts:
            if parts and part.kind == parts[-1].kind == "text":
                parts[-1] = Part("text", parts[-1].data + part.data)
            else:
                parts.append(part)
        done.append(Message(turn.speaker, tuple(parts)))
    return done


def rows_of(
    group: Group,
    paired: Paired,
    asked: Mapping[str, Any],
    files: Mapping[int, str],
    origin: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Every pair of a group as a row. `asked`: the columns of its prompt; `files`: names of answers that are
    no text, by place; `origin`: what made the pairs."""
    rows = []
    seeds, scores = list(group.seeds), [None if own is None else dict(own) for own in paired.scores]
    for made in paired.pairs:
        places = {"chosen": made.chosen, "rejected": made.rejected}
        row: dict[str, Any] = {"id": f"{group.id}/{made.chosen}-{made.rejected}", **asked}
        row |= {side: _answer(group.answers[at], files.get(at)) for side, at in places.items()}
        for side, at in places.items():
            own = paired.scores[at]
            if own is not None:
                row[f"{side}_score"] = own[TOTAL]
        row["margin"] = made.gap
        if made.weight != 1.0:
            row["weight"] = made.weight
        if made.tie:
            row["tie"] = True
        if made.segments is not None:
            row["segments"] = list(made.segments)
        row[COLUMN] = {"prompt_id": group.id, **places, "seeds": seeds, "scores": scores, **origin}
        rows.append(row)
    return rows


def _answer(part: Part, file: str | None) -> Any:
    return part.data if part.kind == "text" else {part.kind: file}


def portable(value: Any) -> Any:
    """Plain values with paths of this machine cut to their last name; ids of a hub stay."""
    if isinstance(value, Mapping):
        return {name: portable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner) for inner in value]
    if isinstance(value, str) and ("/" in value or value.startswith("~")):
        place = Path(value).expanduser()
        if place.is_absolute() or value.startswith(".") or place.exists():
            return place.name
    return value
