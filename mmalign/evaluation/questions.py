"""Prompts to be answered: from rows of preferences, or from a prompt file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from mmalign.data._digest import digest
from mmalign.evaluation.compare import Prompt
from mmalign.evaluation.comparison import Groups
from mmalign.evaluation.prompts._rows import Asked, spread
from mmalign.types import Kind, Message, Part, PreferenceSample


def different_prompts(samples: Iterable[PreferenceSample], count: int) -> list[Prompt]:
    """Up to `count` different prompts of some rows, in order, each with the id of the first row it is in."""
    found: dict[str, Prompt] = {}
    for sample in samples:
        if len(found) == count:
            break
        prompt = next(iter(sample.examples.values()))[0].prompt
        found.setdefault(digest(prompt), (sample.id, prompt))
    return list(found.values())


def questions(rows: Sequence[Asked], count: int | None, kind: Kind) -> tuple[list[Prompt], dict[str, Groups]]:
    """Prompts of a file for a model of some kind, with the groups of each by its id; with `count` so many of
    them, evenly spread over the file. What draws gets a caption, what talks a user's turn."""
    chosen = spread(rows, count)
    speaker: Literal["user", "text"] = "user" if kind == "exact" else "text"
    asked: list[Prompt] = [(row.id, (Message(speaker, (Part("text", row.text),)),)) for row in chosen]
    return asked, {row.id: row.groups for row in chosen}
