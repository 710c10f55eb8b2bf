"""A critic of answers about clips of the built-in world, as a writer of builders; exact, as it reads pixels.

`critic` is a function for writer python_function. It reads requests that name a question, an answer and, to
have the answer written again, mistakes, each on lines of its own, as builder videosavi asks them.
"""

import re

from mmalign.clips import Clip
from mmalign.messages import Message
from mmalign.shapes.judge_answers import right_clip_answer
from mmalign.types import UserError

_REQUEST = re.compile(r"^Question: (?P<question>.*)\nAnswer: (?P<answer>.*)$", re.MULTILINE)
_AGAIN = "These mistakes were found in it:"
_SPATIAL = frozenset({"count", "presence"})
NOTHING = "Nothing is wrong."


def critic(turns: tuple[Message, ...], seed: int) -> str | None:
    """What is wrong in an answer about a clip, or the right answer where mistakes are named; None for other
    requests, and for questions that this world does not judge."""
    clips = [part.data for turn in turns for part in turn.parts if isinstance(part.data, Clip)]
    text = "".join(part.data for turn in turns for part in turn.parts if part.kind == "text")
    asked = _REQUEST.search(text)
    if asked is None or len(clips) != 1:
        return None
    try:
        topic, right = right_clip_answer(clips[0], asked["question"])
    except UserError:
        return None
    if right is None or _AGAIN in text:
        return right
    if asked["answer"].strip() == right:
        return NOTHING
    kind = "Spatial" if topic in _SPATIAL else "Temporal"
    return f"{kind}: it says {asked['answer'].strip()!r} where the clip shows {right!r}"
