"""Mistakes put into right answers about pictures of the built-in world: a writer for builder povid, named in
configs as mmalign.shapes.errors:errors."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from PIL import Image

from mmalign.shapes.judge_sight import read_picture
from mmalign.shapes.sight_text import caption_of, parse_caption
from mmalign.shapes.sights import COLOURS, Thing, companion_of
from mmalign.types import Message, UserError

_ASKED = re.compile(r"^- (\w+): ", re.MULTILINE)


def errors(turns: tuple[Message, ...], seed: int) -> str | None:
    """What a request of that builder is to be answered with: one mistake of a kind drawn by the seed, that is
    not true of the picture either, where one is shown. A caption gets an absent companion (objects), another
    colour (attributes) or two neighbours in each other's place (relations); yes becomes no (reasoning). None
    for other answers and where no kind that is asked for will do."""
    text = "".join(part.data for part in turns[-1].parts if part.kind == "text")
    request, _, answer = text.rpartition("Answer:\n")
    kinds = frozenset(_ASKED.findall(request))
    if answer in ("yes", "no"):
        other = "no" if answer == "yes" else "yes"
        return _reply("reasoning", answer, other, other) if "reasoning" in kinds else None
    try:
        things = parse_caption(answer)
    except UserError:
        return None
    there = frozenset(things)
    for part in (part for turn in turns for part in turn.parts if part.kind == "image"):
        if isinstance(part.data, Image.Image):
            there |= {seen.thing for seen in read_picture(part.data)}
    possible = [replies for kind in sorted(kinds) if (replies := _mistakes(kind, things, there))]
    rng = random.Random(seed)
    return rng.choice(rng.choice(possible)) if possible else None


def _mistakes(kind: str, things: Sequence[Thing], there: frozenset[Thing]) -> list[str]:
    """Every reply with one mistake of a kind."""
    found = []
    for place, thing in enumerate(things):
        before, after = things[:place], things[place + 1 :]
        if kind == "objects" and (other := companion_of(thing)) not in there:
            found.append(_reply(kind, "nothing", other.phrase, caption_of((*before, thing, other, *after))))
        elif kind == "attributes":
            others = [Thing(thing.kind, colour) for colour in COLOURS]
            found += [
                _reply(kind, thing.phrase, other.phrase, caption_of((*before, other, *after)))
                for other in others
                if other not in there
            ]
        elif kind == "relations" and after and after[0] != thing:
            link = ", " if len(after) > 1 else " and "
            ours, theirs = thing.phrase, after[0].phrase
            swapped = caption_of((*before, after[0], thing, *after[1:]))
            found.append(_reply(kind, f"{ours}{link}{theirs}", f"{theirs}{link}{ours}", swapped))
    return found


def _reply(kind: str, right: str, wrong: str, answer: str) -> str:
    return f"Mistakes:\n{kind}: {right} -> {wrong}\nAnswer:\n{answer}"
