"""Captions of the built-in world divided into claims, and claims as questions, by their grammar: a writer for
builder rlaif_v, named in configs as mmalign.shapes.claims:claims."""

from __future__ import annotations

import re

from mmalign.shapes.sight_text import parse_caption
from mmalign.types import Message, UserError

_CLAIM = re.compile(r"(\d+)\. There is (an? \w+ \w+)\.")


def claims(turns: tuple[Message, ...], seed: int) -> str | None:
    """What a request of that builder is to be answered with: "1. There is a red circle." for every thing that
    a caption names, and "1. Is there a red circle?" for such a claim. None for other texts, as the answers
    yes and no."""
    text = "".join(part.data for part in turns[-1].parts if part.kind == "text")
    _, found, statements = text.rpartition("Statements:\n")
    if found:
        matches = [_CLAIM.fullmatch(line) for line in statements.splitlines()]
        if not all(matches):
            return None
        return "\n".join(f"{match[1]}. Is there {match[2]}?" for match in matches if match is not None)
    try:
        things = parse_caption(text.rpartition("Answer:\n")[2])
    except UserError:
        return None
    listed = enumerate(dict.fromkeys(things), 1)
    return "\n".join(f"{number}. There is {thing.phrase}." for number, thing in listed)
