"""Functions that tests name as writers."""

from mmalign.types import Message

NUMBER = 3


def echo(turns: tuple[Message, ...], seed: int) -> str | None:
    """The text of the question with its seed; nothing for a question without text."""
    text = " ".join(part.data for turn in turns for part in turn.parts if part.kind == "text")
    return f" {text} {seed}\n" if text else None


def number(turns: tuple[Message, ...], seed: int) -> int:
    """No text."""
    return seed
