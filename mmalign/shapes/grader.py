"""A grader of answers about clips of the built-in world that sees no clip, only what is said of it.

`grade` is a function for writer python_function, as judge llm_judge asks it for builder llava_hound: its
question holds the caption and the answer on lines of their own.
"""

import re

from mmalign.messages import Message

_GIVEN = re.compile(r"^Caption: (?P<caption>.*)$[\s\S]*^Answer: (?P<answer>.*)$", re.MULTILINE)
_WORD = re.compile(r"[a-z]+")


def grade(turns: tuple[Message, ...], seed: int) -> str | None:
    """5 for an answer that says what the caption says, 3 for one that says it among other things, 2 for one
    that shares words with it, and 1; None for a question without caption or answer."""
    text = "".join(part.data for turn in turns for part in turn.parts if part.kind == "text")
    given = _GIVEN.search(text)
    if given is None:
        return None
    caption, answer = (_WORD.findall(given[name].lower()) for name in ("caption", "answer"))
    shared = set(caption) & set(answer) - {"the", "a", "and"}
    mark = 5 if answer == caption else 3 if set(caption) <= set(answer) else 2 if shared else 1
    return f"The answer shares {len(shared)} words with the caption. Final Score: {mark}"
