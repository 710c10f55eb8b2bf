"""Gaps in answers about pictures of the built-in world, by their grammar: a writer for builder re_align,
named in configs as mmalign.shapes.gaps:gaps."""

from __future__ import annotations

import random

from mmalign.shapes.sight_text import join_phrases, parse_caption
from mmalign.types import Message, UserError

GAP = "[MASK]"


def gaps(turns: tuple[Message, ...], seed: int) -> str | None:
    """What a request of that builder is to be answered with: a caption with half of its things left out,
    drawn by the seed, one at least; of the answers yes and no nothing is left. None for other texts."""
    text = "".join(part.data for part in turns[-1].parts if part.kind == "text")
    answer = text.rpartition("Answer:\n")[2]
    if answer in ("yes", "no"):
        return GAP
    try:
        things = parse_caption(answer)
    except UserError:
        return None
    left_out = set(random.Random(seed).sample(range(len(things)), (len(things) + 1) // 2))
    return join_phrases([GAP if at in left_out else thing.phrase for at, thing in enumerate(things)])
