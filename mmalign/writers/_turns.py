"""Questions and answers as every writer has them."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.types import Message, Part, UserError


def instructed(turns: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    """The question behind a system turn of this text, unless it brings one of its own. Plain text then counts
    as the user's turn, as it stands in a chat."""
    if system is None or any(turn.speaker == "system" for turn in turns):
        return turns
    chat = tuple(Message("user", t.parts) if t.speaker == "text" else t for t in turns)
    return (Message("system", (Part("text", system),)), *chat)


def given_whole(part: Part) -> str | None:
    """An answer of a model at hand, likewise; None for one that was cut off where its tokens ran out."""
    return given(str(part.data)) if part.whole else None


def given(text: str | None) -> str | None:
    """An answer without the white space around it; None where nothing is left."""
    return (text or "").strip() or None


def refuse_uneven(questions: Sequence[object], seeds: Sequence[int]) -> None:
    """Raise ValueError unless there is one seed per question."""
    if len(questions) != len(seeds):
        raise ValueError(f"one seed per question: got {len(seeds)} for {len(questions)}")


def refuse_alike(words: Sequence[str], first: Sequence[object]) -> None:
    """Raise UserError for two words of which the first tokens are the same: no chance tells them apart."""
    known: dict[object, str] = {}
    for word, token in zip(words, first, strict=True):
        if token in known:
            raise UserError(
                f"words: {known[token]!r} and {word!r} begin with the same token, so that their chances "
                "cannot be told apart; ask for other words"
            )
        known[token] = word
