"""Pieces of a record: texts, media values, chat turns, and how an answer is cut from its conversation."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

from mmalign.data._digest import digest
from mmalign.data._paths import File, RatedFile
from mmalign.types import Message, Part, UserError

MediaKind = Literal["image", "video"]
MARKER = re.compile(r"<(image|video)>")  # what stands for a medium in text, in widespread formats
MAX_TEXT = 1_000_000  # characters: far above any context window, far below what stalls a tokenizer
MAX_MEDIA = 64  # images and videos of one prompt

# "human" and "gpt" are the words of the widespread {from, value} form of chat data.
_SPEAKERS: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


@dataclass(frozen=True)
class Answer:
    """A response value as read: its own parts, or the turns of a conversation that ends with it."""

    parts: tuple[Part, ...] = ()
    turns: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Reader:
    """Reads values of one row; every error starts with the row's `origin` and names the field.

    Media paths are bound to `root`, so that a sample knows its files wherever it is decoded. `names` gives
    the columns that canonical fields came from, so that messages speak of what the file holds.
    """

    origin: str
    root: str
    names: Mapping[str, str] = field(default_factory=dict)

    def fail(self, field: str, rule: str) -> UserError:
        """The error for one field of this row."""
        head = re.split(r"[\[.]", field, maxsplit=1)[0]
        own = self.names.get(head, head) + field[len(head) :]
        return UserError(f"{self.origin}, field {own!r}: {rule}")

    def text(self, value: Any, field: str) -> str:
        """A str that can be encoded and is not absurdly long."""
        if value is None:
            raise self.fail(field, "is null; a text is required")
        if not isinstance(value, str):
            raise self.fail(field, f"must be text, got {_kind(value)}")
        if len(value) > MAX_TEXT:
            raise self.fail(field, f"has {len(value)} characters; the limit is {MAX_TEXT}")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            rule = f"holds half of a surrogate pair at character {error.start}; repair the text"
            raise self.fail(field, rule) from None
        return value

    def number(self, value: Any, field: str) -> float:
        """A finite number; booleans are not numbers."""
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise self.fail(field, f"must be a number, got {_kind(value)}")
        if not np.isfinite(float(value)):
            raise self.fail(field, f"must be finite, got {value}")
        return float(value)

    def media(self, value: Any, kind: MediaKind, field: str) -> Part:
        """An image or video: a path inside the root, bytes, {"bytes", "path"}, a PIL image or an array. The
        mapping of a video may have `fps`, the rate of a folder of frames."""
        rate = None
        if kind == "video" and isinstance(value, dict) and value.get("fps") is not None:
            rate = self.number(value["fps"], f"{field}.fps")
            if rate <= 0:
                raise self.fail(f"{field}.fps", f"must be above 0, got {rate:g}")
        if isinstance(value, dict) and kind == "video":
            value = {key: one for key, one in value.items() if key != "fps"}
        if isinstance(value, dict) and kind in value:
            value = value[kind]
        if isinstance(value, dict):
            extra = sorted(set(value) - {"bytes", "path"})
            if extra:
                raise self.fail(field, f"has the unknown key {extra[0]!r}; known: bytes, path, {kind}")
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if value is None:
            raise self.fail(field, f"holds no {kind} (null)")
        if isinstance(value, (str, os.PathLike)):
            name = self.text(os.fspath(value), field)
            if not name.strip():
                raise self.fail(field, f"names no {kind}: the text is empty; null says that there is none")
            return Part(kind, File(self.root, name) if rate is None else RatedFile(self.root, name, rate))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return Part(kind, bytes(value))
        if isinstance(value, (Image.Image, np.ndarray)):
            return Part(kind, value)
        raise self.fail(field, f"must be a path, bytes or a picture, got {_kind(value)}")

    def parts(self, value: Any, field: str) -> tuple[Part, ...]:
        """A text, or a list of {type: text | image | video, ...}; an image or video without a value is a
        place that the row's `images` or `videos` fill."""
        if not isinstance(value, (list, tuple)):
            return (Part("text", self.text(value, field)),)
        return tuple(self._part(item, f"{field}[{place}]") for place, item in enumerate(value))

    def _part(self, item: Any, field: str) -> Part:
        if not isinstance(item, dict):
            raise self.fail(field, f"must be {{type: text | image | video, ...}}, got {_kind(item)}")
        kind = item.get("type")
        given = {key: value for key, value in item.items() if key != "type" and value is not None}
        if kind == "text":
            if set(given) != {"text"}:
                raise self.fail(field, f"a text part needs the key 'text' alone, got {sorted(given)}")
            return Part("text", self.text(given["text"], field))
        if kind == "image" or kind == "video":
            if not set(given) <= {kind, "bytes", "path"} | ({"fps"} if kind == "video" else set()):
                raise self.fail(field, f"the {kind} part takes the key {kind!r}, got {sorted(given)}")
            if not given:
                return Part(kind, None)
            return self.media(given if "fps" in given else given.get(kind, given), kind, field)
        raise self.fail(field, f"part type must be text, image or video, got {kind!r}")

    def turns(self, value: Any, field: str) -> tuple[Message, ...]:
        """Chat turns {role, content} (or {from, value}) in legal order: system first if at all, then user
        and assistant in turn, the user first."""
        if not isinstance(value, (list, tuple)) or not value:
            rule = "must be a text or a list of {role, content}"
            raise self.fail(field, f"{rule}, got {_kind(value)}")
        messages = tuple(self._turn(turn, f"{field}[{place}]") for place, turn in enumerate(value))
        body = messages[1:] if messages[0].speaker == "system" else messages
        single_answer = len(messages) == 1 and messages[0].speaker == "assistant"
        for place, message in enumerate(() if single_answer else body):
            expected = "user" if place % 2 == 0 else "assistant"
            if message.speaker != expected:
                turn = place + len(messages) - len(body)
                rule = f"role {message.speaker!r} where {expected!r} must follow; roles alternate, user first"
                raise self.fail(f"{field}[{turn}]", rule)
        return messages

    def _turn(self, turn: Any, field: str) -> Message:
        if not isinstance(turn, dict):
            raise self.fail(field, f"must be {{role, content}}, got {_kind(turn)}")
        given = {key for key, value in turn.items() if value is not None}
        names = ("from", "value") if "from" in given else ("role", "content")
        if given != set(names):
            raise self.fail(field, f"a turn has the keys {names[0]} and {names[1]}, got {sorted(given)}")
        speaker = turn[names[0]]
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            raise self.fail(field, f"unknown role {speaker!r}; known: {', '.join(_SPEAKERS)}")
        return Message(_SPEAKERS[speaker], self.parts(turn[names[1]], field))

    def prompt(self, value: Any, field: str) -> tuple[Message, ...]:
        """A plain text (speaker "text") or a chat that ends with the user."""
        if value is None or isinstance(value, str):
            text = self.text(value, field)
            if not text.strip():
                raise self.fail(field, "is empty; a prompt needs text")
            return (Message("text", (Part("text", text),)),)
        messages = self.turns(value, field)
        if messages[-1].speaker != "user":
            raise self.fail(field, f"must end with the user, ends with the {messages[-1].speaker}")
        return messages

    def answer(self, value: Any, field: str) -> Answer:
        """A response: text, a media value, parts, one turn, or a conversation that ends with it."""
        if isinstance(value, dict):
            if "role" in value or "from" in value:
                value = [value]
            elif "type" in value:
                return Answer(parts=self.filled((self._part(value, field),), field))
            else:
                return Answer(parts=(self.media(value, "video" if "video" in value else "image", field),))
        if isinstance(value, (list, tuple)):
            if value and isinstance(value[0], dict) and "type" in value[0]:
                return Answer(parts=self.filled(self.parts(value, field), field))
            turns = self.turns(value, field)
            if turns[-1].speaker != "assistant":
                raise self.fail(field, f"must end with the assistant, ends with the {turns[-1].speaker}")
            self.filled(turns[-1].parts, field)
            return Answer(turns=turns)
        if isinstance(value, (Image.Image, np.ndarray, bytes)):
            return Answer(parts=(self.media(value, "image", field),))
        return Answer(parts=self.filled((Part("text", self.text(value, field)),), field))

    def filled(self, parts: Sequence[Part], field: str) -> tuple[Part, ...]:
        """The parts of a response, which must hold something to score."""
        for part in parts:
            if part.data is None:
                raise self.fail(field, f"holds the part {part.kind!r} without a value")
        if not any(part.kind != "text" or part.data.strip() for part in parts):
            raise self.fail(field, "is empty; a response needs something to score")
        return tuple(parts)


def insert_media(
    reader: Reader, prompt: tuple[Message, ...], media: Mapping[MediaKind, tuple[str, Sequence[Part]]]
) -> tuple[Message, ...]:
    """Put `media`, {kind: (field, values)}, into the places of the prompt, in order: parts without a value,
    or <image> and <video> written in its text. A prompt without places takes them in front of its first turn
    that is not the system's.

    Raises UserError if places and values differ in number, if the prompt already holds that kind, or if text
    holds such a marker beside parts with or without values.
    """
    parts = [part for message in prompt for part in message.parts]
    if not any(values for _, values in media.values()) and all(part.kind == "text" for part in parts):
        return prompt
    prompt = _marked(reader, prompt)
    parts = [part for message in prompt for part in message.parts]
    places = Counter(part.kind for part in parts if part.data is None)
    own = Counter(part.kind for part in parts if part.data is not None)
    for kind, (name, values) in media.items():
        if places and places[kind] != len(values):
            rule = f"{len(values)} {kind}s for {places[kind]} {kind} places in the prompt"
            raise reader.fail(name, rule)
        if values and own[kind] and not places:
            raise reader.fail(
                name, f"{len(values)} {kind}s beside {own[kind]} in the prompt itself; keep one"
            )
    rest: dict[str, list[Part]] = {kind: list(values) for kind, (_, values) in media.items()}
    messages = []
    for message in prompt:
        front: list[Part] = []
        if not places and message.speaker != "system":
            front = [part for values in rest.values() for part in values]
            rest = {}
        filled = [rest[part.kind].pop(0) if part.data is None else part for part in message.parts]
        messages.append(Message(message.speaker, (*front, *filled)))
    count = sum(part.kind != "text" for message in messages for part in message.parts)
    if count > MAX_MEDIA:
        name = max(media.values(), key=lambda given: len(given[1]))[0]
        raise reader.fail(name, f"{count} images and videos in one prompt; the limit is {MAX_MEDIA}")
    return tuple(messages)


def _marked(reader: Reader, prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """Markers in text as places; left as text they would reach the model as junk beside its pictures."""
    parts = [part for message in prompt for part in message.parts]
    if not any(part.kind == "text" and MARKER.search(part.data) for part in parts):
        return prompt
    if any(part.kind != "text" for part in parts):
        rule = "holds a marker such as <image> as text beside parts for media; write every place as a part"
        raise reader.fail("prompt", rule)
    return tuple(
        Message(
            message.speaker,
            tuple(
                Part(piece, None) if place % 2 else Part("text", piece)  # type: ignore[arg-type]
                for part in message.parts
                for place, piece in enumerate(MARKER.split(part.data))
                if place % 2 or piece
            ),
        )
        for message in prompt
    )


def common_turns(conversations: Sequence[tuple[Message, ...]]) -> tuple[Message, ...]:
    """The longest shared beginning of conversations that leaves each at least its last turn."""
    length = 0
    for column in zip(*(turns[:-1] for turns in conversations), strict=False):
        if len({digest(message) for message in column}) > 1:
            break
        length += 1
    return conversations[0][:length]


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "dict": "a mapping", "list": "a list", "str": "text", "bool": "true/false"}
    name = type(value).__name__
    if isinstance(value, (list, tuple)) and not value:
        return "an empty list"
    return names.get(name, name)
