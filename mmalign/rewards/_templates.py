"""Questions to judges out of templates: places such as {response}, filled with texts and media."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mmalign.types import Message, Part

_PLACE = re.compile(r"\{\{|\}\}|\{(\w+)\}")


def places_of(template: str) -> frozenset[str]:
    """The names of the places in a template. Two braces in a row stand for one that is none of theirs."""
    return frozenset(match[1] for match in _PLACE.finditer(template) if match[1])


def check_template(field: str, template: str, needed: frozenset[str], known: frozenset[str]) -> None:
    """Raise ValueError for a template without the places that it needs, or with unknown ones."""
    found = places_of(template)
    if strange := sorted(found - known):
        listed = ", ".join(f"{{{one}}}" for one in sorted(known))
        raise ValueError(
            f"{field}: knows no place {{{strange[0]}}}, only {listed}; write braces that are no place twice"
        )
    if missing := sorted(needed - found):
        raise ValueError(f"{field}: needs the place {{{missing[0]}}}")


def question(template: str, filling: Mapping[str, str | Part], media: Sequence[Part]) -> tuple[Message, ...]:
    """One user's turn: media, then the template with its places filled in one pass, so that no text that is
    filled in is taken for a place. A picture or clip stands where its place is."""
    parts, text, end = list(media), "", 0
    for match in _PLACE.finditer(template):
        text += template[end : match.start()]
        end = match.end()
        if not match[1]:
            text += match[0][0]
            continue
        given = filling[match[1]]
        if isinstance(given, str):
            text += given
        elif given.kind == "text":
            text += str(given.data)
        else:
            parts += [Part("text", text)] if text else []
            parts.append(given)
            text = ""
    text += template[end:]
    return (Message("user", (*parts, Part("text", text)) if text else tuple(parts)),)


def asked_text(prompt: Sequence[Message]) -> str:
    """The text of a prompt; of several turns each in a line behind its speaker."""
    texts = ["".join(part.data for part in turn.parts if part.kind == "text") for turn in prompt]
    if len(texts) == 1:
        return texts[0]
    return "\n".join(f"{turn.speaker}: {text}" for turn, text in zip(prompt, texts, strict=True))


def media_of(prompt: Sequence[Message]) -> tuple[Part, ...]:
    """The pictures and clips of a prompt, in order."""
    return tuple(part for turn in prompt for part in turn.parts if part.kind != "text")
