"""What kinds of answers a judge reads, and the refusal of one that does not read what a model makes."""

from __future__ import annotations

from mmalign._names import KINDS, class_of, name_of, names
from mmalign.types import Adapter, Judge, Kind, UserError

WORDS = {"text": "texts", "image": "pictures", "video": "clips"}
"""Kinds of answers, as messages call them."""


def reads_of(judge: Judge | type) -> frozenset[str] | None:
    """The kinds of answers that a judge scores, of its attribute `reads`; None where it does not say."""
    found = getattr(judge, "reads", None)  # a judge need not say
    return found if isinstance(found, frozenset) else None


def made_by(kind: Kind) -> frozenset[str]:
    """What models of a kind may answer with; none where they answer nothing."""
    possible: dict[Kind, frozenset[str]] = {
        "exact": frozenset({"text"}),
        "surrogate": frozenset({"image", "video"}),
        "reward": frozenset(),
    }
    return possible[kind]


def answers_of(adapter: Adapter) -> frozenset[str]:
    """What a loaded model answers with."""
    if adapter.kind != "surrogate":
        return made_by(adapter.kind)
    return frozenset({"image" if adapter.frames is None else "video"})


def refuse_unread(judge: Judge, made: frozenset[str], where: str) -> None:
    """Raise UserError for a judge that reads none of what a model makes; the message names those that do."""
    reads = reads_of(judge)
    if reads is None or not made or reads & made:
        return
    own, name = said(reads) or "nothing that its parts share", name_of(KINDS["judge"], type(judge))
    others = [other for other in names(KINDS["judge"]) if _fits(other, made)]
    raise UserError(
        f"{where}: {name} reads {own}, and this model makes {said(made, ' or ')}; use {', '.join(others)}"
    )


def said(kinds: frozenset[str], between: str = " and ") -> str:
    """Kinds in words: "pictures and clips"."""
    return between.join(word for kind, word in WORDS.items() if kind in kinds)


def _fits(name: str, made: frozenset[str]) -> bool:
    reads = reads_of(class_of(KINDS["judge"], name))
    return reads is not None and bool(reads & made)
