"""Captions of the built-in world in other words, and whether two texts name the same things: a writer for
builder ha_dpo, named in configs as mmalign.shapes.styles:styles."""

from __future__ import annotations

import random
import re

from mmalign.shapes.sight_text import caption_of, mentioned_things, parse_caption
from mmalign.types import Message, UserError

_CHECK = re.compile(r"First text:\n(?P<first>.*)\n\nSecond text:\n(?P<second>.*)", re.DOTALL)
_STYLES = ("The picture shows {all}.", "I can see {all} here.", "There is {all} in the picture.")


def styles(turns: tuple[Message, ...], seed: int) -> str | None:
    """What a request of that builder is to be answered with: a caption in a sentence that is drawn by the
    seed; whether two texts name the same things as often and in the same order. None for other texts."""
    text = "".join(part.data for part in turns[-1].parts if part.kind == "text")
    if (two := _CHECK.search(text)) is not None:
        same = mentioned_things(two["first"]) == mentioned_things(two["second"])
        return "Yes" if same else "No"
    try:
        things = parse_caption(text.rpartition("Text:\n")[2])
    except UserError:
        return None
    return f"Rewritten:\n{random.Random(seed).choice(_STYLES).format(all=caption_of(things))}"
