"""A writer, a judge and a grader by rule for builds on real media, named in configs as
builders.real_builds:written and so on: they follow the forms that are asked for, whatever the media show."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmalign.types import Clip, Message

_STATED = re.compile(r"(\d+)\. (.*)")


def written(turns: tuple[Message, ...], seed: int) -> str:
    """The answer in the form that a builder's request asks for. Raises AssertionError for an unknown one."""
    text = "".join(part.data for part in turns[-1].parts if part.kind == "text")
    answer = text.rpartition("Answer:\n")[2]
    if "[MASK]" in text:
        return answer.replace(_longest(answer), "[MASK]", 1)
    if "Divide the answer into its single claims" in text:
        listed = [one.strip() for one in re.split(r"[,.]| and ", answer) if one.strip()]
        return "\n".join(f"{number}. One sees {one}." for number, one in enumerate(listed, 1)) or "NONE"
    if "Turn each into a question" in text:
        stated = map(_STATED.fullmatch, text.rpartition("Statements:\n")[2].splitlines())
        return "\n".join(f"{one[1]}. Is it true that {one[2].rstrip('.')}?" for one in stated if one)
    if "Begin with the line Mistakes:" in text:
        word = _longest(answer)
        return f"Mistakes:\nobjects: {word} -> zeppelin\nAnswer:\n{answer.replace(word, 'zeppelin', 1)}"
    if "Reply with yes or no alone" in text:
        return "Yes."
    if "the line Rewritten:" in text:
        return "Rewritten:\nWhat is shown: " + text.rpartition("Text:\n")[2]
    if "Reply with the question alone" in text:
        return "Where does it happen?"
    if "Begin a line with Spatial:" in text:
        return "Spatial: it does not say where\nTemporal: it does not say when"
    assert "Write the answer again without these mistakes" in text, text
    return "Here and now, " + (re.search(r"^Answer: (.*)$", text, re.MULTILINE) or ["", ""])[1]


def _longest(text: str) -> str:
    return max(re.findall(r"[A-Za-z]+", text), key=len)


def worth(prompts: Sequence[str], responses: Sequence[Any]) -> list[float]:
    """A number for every response: of texts one that looks drawn, of pictures and clips the mean value."""
    return [_worth(one) for one in responses]


def _worth(one: Any) -> float:
    if isinstance(one, str):
        return zlib.crc32(one.encode()) % 1000 / 1000
    return float(one.frames.float().mean() if isinstance(one, Clip) else np.asarray(one).mean())


def graded(turns: tuple[Message, ...], seed: int) -> str:
    """A mark from 1 to 5 for an answer of which a caption is given beside it."""
    text = "".join(part.data for part in turns[-1].parts if part.kind == "text")
    assert all(part.kind == "text" for turn in turns for part in turn.parts), (
        "the caption stands for the clip"
    )
    found = re.fullmatch(r"Caption: (.+)\nAnswer: (.+)", text, re.DOTALL)
    assert found is not None, text
    return f"It is what it is. Final Score: {1 + int(_worth(found[2]) * 5)}"
