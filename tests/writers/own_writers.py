"""Functions that tests name as writers."""

from mmalign.types import Message

NUMBER = 3


def echo(turns: tuple[Message, ...], seed: int) -> str | None:
    """The text of the question with its seed; nothing for a question without text."""
    text = " ".join(part.data for turn in turns for part in turn.parts if part.kind == "text")
    return f" {text} {seed}\n" if text else None


def boom(turns: tuple[Message, ...], seed: int) -> str | None:
    """A function with a mistake of its own, which shows at the first question."""
    raise ValueError("my\nbug")


def text_alone(text: str) -> str:
    """Takes something else."""
    return text


class Again:
    """An object that can be called."""

    def __call__(self, turns: tuple[Message, ...], seed: int) -> str | None:
        """What `echo` says."""
        return echo(turns, seed)


again = Again()


def number(turns: tuple[Message, ...], seed: int) -> int:
    """No text."""
    return seed


def unsure(turns: tuple[Message, ...], seed: int) -> str:
    """No form that a judge reads, and much of it."""
    return "My\nScore = 7. " + "It is fair. " * 50


ASKED: list[str] = []
"""Questions to `graded`, in order."""


def graded(turns: tuple[Message, ...], seed: int) -> str | None:
    """A verdict by the words in the question: its length in words, or what stands behind "says ", if any."""
    text = "".join(part.data for turn in turns for part in turn.parts if part.kind == "text")
    ASKED.append(text)
    if "refused" in text:
        return None
    if "says " in text:
        return text.partition("says ")[2].partition("|")[0]
    return f"Some reasons. Final Score: {len(text.split())}"


def longer(turns: tuple[Message, ...], seed: int) -> str:
    """Prefers the longer of "1: A 2: B"; an answer "odd" is told to be better wherever it stands first."""
    text = "".join(part.data for turn in turns for part in turn.parts if part.kind == "text")
    first, _, second = text.removeprefix("1: ").partition(" 2: ")
    if "mute" in text:
        return "I cannot tell."
    if "odd" in text or len(first) > len(second):
        return "Answer 1 is better"
    return "equally good" if len(first) == len(second) else "Answer 2 is the better one"


def numeric(turns: tuple[Message, ...], seed: int) -> str:
    """Compares the numbers of "1: A 2: B", and rates "rate A" by its number; "mute" gets no verdict."""
    text = "".join(part.data for turn in turns for part in turn.parts if part.kind == "text")
    ASKED.append(text)
    if "mute" in text:
        return "I would not know."
    if text.startswith("rate "):
        return f"Final Score: {text.split()[1]}"
    first, second = (int(one.split()[0]) for one in text.removeprefix("1: ").split(" 2: "))
    return f"Answer {1 if first > second else 2} is better"
