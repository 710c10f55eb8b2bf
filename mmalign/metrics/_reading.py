"""Reading the files of benchmarks: rows of JSON or JSON lines, typed fields, media, and prediction files."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmalign.data._paths import File
from mmalign.types import Message, Part, UserError

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, "file.jsonl row 17", and its fields."""
_IDS = ("id", "question_id", "idx", "image_id")
_TEXTS = ("answer", "response", "text", "caption", "prediction", "pred", "output", "model_answer")
_ZERO, _LAST = re.compile(r"(?:^|/)0$"), re.compile(r"\d+$")
Copied = tuple[tuple[str, ...], tuple[str, ...]]
"""Fields that tell a row copied from a benchmark's own file, and which of its texts are no model's answer."""
NOTHING_COPIED: Copied = ((), ())


def rows_of(path: str | Path) -> list[Row]:
    """The objects of a file: a JSON list of them, or one per line. Raises UserError naming file and row."""
    place = Path(path).expanduser()
    text = text_of(place)
    if text.lstrip().startswith("["):
        listed = json_of(place, text)
        found = [(f"{place} row {number}", row) for number, row in enumerate(listed, 1)]
    else:
        found = list(_lines(place, text))
    if not found:
        raise UserError(f"{place}: holds no row")
    for where, row in found:
        if not isinstance(row, dict):
            raise UserError(f"{where}: must be an object with named fields, got {row!r:.60}")
    return found


def _lines(place: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{place} row {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{place} row {number}: not JSON ({error.msg})") from error


def text_of(place: Path) -> str:
    """A file as text. Raises UserError if there is none or it is not UTF-8."""
    try:
        return place.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise UserError(f"{place}: {error.strerror}; name a file of the benchmark") from error


def json_of(place: Path, text: str | None = None) -> Any:
    """The value of a JSON file. Raises UserError naming the line if it is none."""
    try:
        return json.loads(text_of(place) if text is None else text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place} line {error.lineno}: not JSON ({error.msg})") from error


def need(row: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Raise UserError, with the fields that are there, for a row without all that it must have."""
    if missing := [name for name in names if name not in row]:
        raise UserError(
            f"{where}: needs the fields {', '.join(names)}; it lacks {', '.join(missing)} and has "
            f"{', '.join(map(str, row)) or 'none'}"
        )


def word(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be a text or a whole number, as text without spaces around it."""
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {name} must be a text that is not empty, got {value!r:.60}")
    return value.strip()


def listed(row: Mapping[str, Any], name: str, where: str) -> list[Any]:
    """A field that must be a list."""
    value = row.get(name)
    if not isinstance(value, list):
        raise UserError(f"{where}: {name} must be a list, got {value!r:.60}")
    return value


def words(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    """A field that must be a list of texts."""
    found = listed(row, name, where)
    if not all(isinstance(one, str) and one.strip() for one in found):
        raise UserError(f"{where}: {name} must be a list of texts, got {found!r:.60}")
    return [one.strip() for one in found]


def one_of(row: Mapping[str, Any], name: str, choices: Sequence[str], where: str) -> str:
    """A field that must be one of a few words, in any case; returned as the list has it."""
    given = word(row, name, where).lower()
    for choice in choices:
        if given == choice.lower():
            return choice
    raise UserError(f"{where}: {name} must be one of {', '.join(choices)}, got {given!r:.60}")


def medium(kind: Literal["image", "video"], folder: str, name: str) -> Part:
    """A picture or video by its name inside a folder; it is opened when the question is asked."""
    return Part(kind, File(str(Path(folder).expanduser().resolve()), name))


def asked(*parts: Part | str) -> tuple[Message, ...]:
    """A user's turn of media and texts, in order."""
    return (Message("user", tuple(Part("text", p) if isinstance(p, str) else p for p in parts)),)


def unique(ids: Sequence[str], where: str) -> None:
    """Raise UserError for an id that occurs twice."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise UserError(f"{where}: id {name!r} occurs twice; ids must differ")
        seen.add(name)


def check_paths(**paths: str | None) -> None:
    """Raise ValueError, naming the field, for a path that is an empty string."""
    for name, path in paths.items():
        if path is not None and not path.strip():
            raise ValueError(f"{name}: must name a file or folder, got an empty string")


def answers_in(
    path: Path, ids: Sequence[str] = (), texts: Sequence[str] = (), copied: Copied = NOTHING_COPIED
) -> dict[str, str]:
    """Answers by id from JSON or JSON lines; a first line without an answer that says `mmalign` is skipped.

    A field named in `texts` is the answer, else the only one of the usual names. Of a row that has one of the
    fields `copied[0]`, which come from the benchmark's own file, those of `copied[1]` are its question or its
    right answer and never the model's. Raises UserError for a row without an id or an answer or with several
    fields that may be the answer, and for an id that occurs with two answers.
    """
    found: dict[str, str] = {}
    named = list(dict.fromkeys((*ids, *_IDS)))
    for where, row in rows_of(path):
        if "mmalign" in row:
            continue
        name = next((key for key in named if row.get(key) is not None), None)
        if name is None:
            raise UserError(f"{where}: needs an id, under one of {', '.join(named)}")
        called, text = str(row[name]), _answer(row, texts, copied, where)
        if found.setdefault(called, text) != text:
            raise UserError(f"{where}: id {called!r} has two different answers; keep one")
    if not found:
        raise UserError(f"{path}: holds no answer")
    return found


def from_one(given: Mapping[str, str], asked: Collection[str], path: Path) -> dict[str, str]:
    """Answers by ids that are, or end in, numbers counted from 1, with #VIEW behind those of a view. A file
    that has just these counted from 0, plain and under every view that it names, is told from that; one that
    has a 0 otherwise is refused, for its answers may belong to their neighbours.
    """
    heads = {name.partition("#")[0] for name in asked}
    parted = {name: name.partition("#") for name in given}
    early = (name for name, (head, *_) in parted.items() if _ZERO.search(head) and head not in heads)
    zero = next(early, None)
    if zero is None:
        return dict(given)
    below = {_LAST.sub(lambda found: str(int(found[0]) - 1), head): head for head in heads}
    views: dict[str, set[str]] = {}
    for head, _, view in parted.values():
        views.setdefault(view, set()).add(head)
    if any(there != below.keys() for there in views.values()):
        raise UserError(
            f"{path}: has an id {zero!r}, and these ids count from 1; count from 1, or give all "
            f"{len(heads)} answers counted from 0"
        )
    return {f"{below[head]}{mark}{view}": given[name] for name, (head, mark, view) in parted.items()}


def _answer(row: Mapping[str, Any], texts: Sequence[str], copied: Copied, where: str) -> str:
    """The text of the one field that can only be the model's answer."""
    own = copied[1] if any(mark in row for mark in copied[0]) else ()
    known = [key for key in dict.fromkeys((*texts, *_TEXTS)) if key not in own]
    given = [key for key in texts if key in row and key not in own] or [key for key in known if key in row]
    if len(given) > 1:
        both = " and ".join(given)
        raise UserError(f"{where}: {both} may each be the model's answer; keep the one that is")
    if not given or not isinstance(row[given[0]], str):
        left_out = [key for key in own if key in row]
        why = f"; {left_out[0]} is the benchmark's own" if left_out and not given else ""
        raise UserError(f"{where}: needs the model's answer as text, under one of {', '.join(known)}{why}")
    text: str = row[given[0]]
    return text
