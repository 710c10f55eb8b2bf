"""Asking a model or a helper about clips and texts, and reading what comes back strictly: what does not have
the form that was asked for is no answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from mmalign.builders._candidates import Asked
from mmalign.types import Clip, Message, Part

_NUMBERED = re.compile(r"\d+\s*[.)]\s+(\S.*)")
_BARE = re.compile(r"[^\w\s]|_")

Turns = tuple[Message, ...]


def about(text: str, media: Sequence[Part] = ()) -> Turns:
    """One user's turn: media, then what is asked of them."""
    return (Message("user", (*media, Part("text", text))),)


def only_clip(row: Asked) -> Clip | None:
    """The decoded clip of a row that shows nothing else; None for other rows."""
    media = [part for turn in row.turns for part in turn.parts if part.kind != "text"]
    return media[0].data if len(media) == 1 and isinstance(media[0].data, Clip) else None


def with_clip(turns: Turns, clip: Clip) -> Turns:
    """The same turns, with another clip in the place of every clip."""
    return tuple(
        replace(turn, parts=tuple(Part("video", clip) if p.kind == "video" else p for p in turn.parts))
        for turn in turns
    )


def words_of(turns: Turns) -> str:
    """The text of what was asked last, its parts joined."""
    last = next((turn for turn in reversed(turns) if turn.speaker in ("user", "text")), None)
    return "".join(part.data for part in last.parts if part.kind == "text").strip() if last else ""


def read_question(text: str | None) -> str | None:
    """The question that a text is: one line that ends in its only question mark."""
    line = (text or "").strip()
    return line if len(line) > 1 and line.find("?") == len(line) - 1 and "\n" not in line else None


def read_questions(text: str | None, most: int) -> tuple[list[str], int]:
    """The different questions of a numbered list, `most` at most, and how many lines are none of these."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    found: list[str] = []
    for line in lines:
        match = _NUMBERED.fullmatch(line)
        question = read_question(match[1]) if match else None
        if question is not None and question not in found and len(found) < most:
            found.append(question)
    return found, len(lines) - len(found)


def read_word(text: str | None, words: Sequence[str]) -> str | None:
    """The one of some words that a text is, whatever its case and the marks around it."""
    said = re.sub(r"^\W+|\W+$", "", text or "").casefold()
    return next((word for word in words if word.casefold() == said), None)


def bare(text: str) -> str:
    """A text without case, punctuation and double spaces: what two answers that say the same share."""
    return " ".join(_BARE.sub(" ", text).casefold().split())
