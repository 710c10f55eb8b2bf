"""What of a written answer is the answer: not what its model thought before it, nor the marks around it."""

from __future__ import annotations

import re

_OPENED = re.compile(r"<think(?:ing)?>|\u25c1think\u25b7", re.IGNORECASE)
_CLOSED = re.compile(r"</think(?:ing)?>|\u25c1/think\u25b7", re.IGNORECASE)
_BOX = re.compile(r"<\|(?:begin|end)_of_box\|>")
_WHOLE = re.compile(r"\s*<answer>((?:(?!</?answer>).)*)</answer>\s*", re.IGNORECASE | re.DOTALL)


def without_thoughts(answer: str) -> str:
    """What follows the last end of a thought, </think>, whose beginning a template may have written into the
    prompt; empty where a thought begins that does not end. Marks around the result, <|begin_of_box|>, or
    <answer> where it is all that is left, are taken off. An answer without any of these stays as it is."""
    text = _CLOSED.split(answer)[-1]
    if _OPENED.search(text):
        return ""
    text = _BOX.sub("", text)
    if whole := _WHOLE.fullmatch(text):
        text = whole[1]
    return answer if text == answer else text.strip()


def is_unfinished(answer: str) -> bool:
    """Whether an answer is cut off within a thought that it began."""
    return _OPENED.search(_CLOSED.split(answer)[-1]) is not None
