"""Prompts that were written out in a chat template: their turns, for a model's own template to be applied.

A template inside a template would reach the model as text that no chat of its training has.
"""

from __future__ import annotations

import re

_PLAIN = re.compile(r"(?:^|(?<=\s)|(?<=</s>))(USER|ASSISTANT|Human|Assistant|### ?Human|### ?Assistant): ?")
_CHATML = re.compile(r"<\|im_start\|>(system|user|assistant)\n(.*?)(?:<\|im_end\|>\n?|$)", re.DOTALL)
_BRACKETS = re.compile(r"^\s*(?:<s>)?\s*\[INST\](.*)\[/INST\]\s*$", re.DOTALL)
_SYSTEM = re.compile(r"^<<SYS>>\n?(.*?)\n?<</SYS>>\n*", re.DOTALL)
_ROUTINE = re.compile(r"^A chat between a curious (user|human) and an artificial intelligence assistant\b")
_MARKS = ("USER:", "ASSISTANT:", "<|im_start|>", "[INST]", "### Human", "###Human", "<|start_header_id|>")

Turns = list[dict[str, str]]


def is_templated(text: str) -> bool:
    """Whether a prompt holds the marks of roles."""
    return any(mark in text for mark in _MARKS) or (
        "Assistant:" in text and re.search(r"(^|\n)\s*Human:", text) is not None
    )


def untemplated(text: str) -> Turns | None:
    """The turns {role, content} of a prompt with USER: and ASSISTANT:, Human: and Assistant:, ChatML or
    [INST], ending with the user's; None if it is of another form or does not end where the answer begins.

    The sentence in front of Vicuna's prompts belongs to its template and is left out; any other text in front
    is the system's turn.
    """
    for read in (_chatml, _instructed, _plain):
        turns = read(text)
        if turns is not None:
            body = turns[1:] if turns and turns[0]["role"] == "system" else turns
            order = [turn["role"] for turn in body]
            expected = ["user", "assistant"] * len(body)
            sound = order == expected[: len(body)] and len(body) % 2 == 1
            return turns if sound and all(turn["content"] for turn in turns) else None
    return None


def _chatml(text: str) -> Turns | None:
    if "<|im_start|>" not in text:
        return None
    found = [{"role": role, "content": content.strip()} for role, content in _CHATML.findall(text)]
    if found and found[-1] == {"role": "assistant", "content": ""}:
        found.pop()
    return found


def _instructed(text: str) -> Turns | None:
    found = _BRACKETS.match(text)
    if found is None or "[INST]" in found[1]:
        return None
    system = _SYSTEM.match(found[1].strip())
    asked = found[1].strip()[system.end() :] if system else found[1].strip()
    turns = [{"role": "system", "content": system[1].strip()}] if system else []
    return [*turns, {"role": "user", "content": asked.strip()}]


def _plain(text: str) -> Turns | None:
    pieces = _PLAIN.split(text)
    if len(pieces) < 3:
        return None
    before = pieces[0].strip()
    turns = [] if not before or _ROUTINE.match(before) else [{"role": "system", "content": before}]
    for mark, content in zip(pieces[1::2], pieces[2::2], strict=True):
        role = "user" if mark.lower().endswith(("user", "human")) else "assistant"
        turns.append({"role": role, "content": content.replace("</s>", "").strip()})
    if turns[-1] != {"role": "assistant", "content": ""}:
        return []  # it must end with the mark after which the answer is written
    return turns[:-1]
