"""Questions in the form of chat completions requests, and what their answers say."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmalign.clips import Clip
from mmalign.types import Message, Part, UserError


def messages_of(turns: Sequence[Message], frames: int, where: str) -> list[dict[str, Any]]:
    """The turns of a question; plain text is a user's turn. Raises UserError for media not decoded."""
    found: list[dict[str, Any]] = []
    for turn in turns:
        speaker = "user" if turn.speaker == "text" else turn.speaker
        texts = [part.data for part in turn.parts if part.kind == "text"]
        if len(texts) == len(turn.parts):
            found.append({"role": speaker, "content": "".join(texts)})
            continue
        content = [piece for part in turn.parts for piece in _pieces(part, frames, where)]
        found.append({"role": speaker, "content": content})
    return found


def _pieces(part: Part, frames: int, where: str) -> list[dict[str, Any]]:
    if part.kind == "text":
        return [{"type": "text", "text": part.data}]
    if isinstance(part.data, Image.Image):
        return [_shown(part.data)]
    if isinstance(part.data, Clip):
        kept = part.data.frames[list(spread(len(part.data.frames), frames))]
        pictures = kept.permute(0, 2, 3, 1).numpy()
        return [_shown(Image.fromarray(np.ascontiguousarray(one))) for one in pictures]
    raise UserError(f"{where}: holds a {part.kind} that is not decoded, a {type(part.data).__name__}")


def spread(total: int, count: int) -> tuple[int, ...]:
    """Places of at most `count` frames of `total`, from the first to the last; a single one is the first."""
    if total <= count:
        return tuple(range(total))
    if count == 1:
        return (0,)
    return tuple(i * (total - 1) // (count - 1) for i in range(count))


def _shown(picture: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def answer_of(back: Any, url: str) -> str | None:
    """The text of an answer; None for one that the server withheld for its content, or cut off where its
    tokens ran out. Raises UserError for anything that is no answer."""
    choice = _choice(back, url)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise UserError(f"endpoint: {url}: its answer has no message; is the address right?")
    if choice.get("finish_reason") in ("content_filter", "length") or message.get("refusal"):
        return None
    text = message.get("content")
    if text is not None and not isinstance(text, str):
        raise UserError(f"endpoint: {url}: the content of its answer is no text, got {text!r:.60}")
    return text


def chances_of(back: Any, words: Sequence[str], url: str) -> tuple[float, ...]:
    """The probability of each word as the first token, 0 where it is not told. Raises UserError for an answer
    without probabilities."""
    told = _choice(back, url).get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    top = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(top, list) or not top:
        raise UserError(
            f"endpoint: {url}: tells no probabilities (top_logprobs), which chances are read from; use "
            "another server or writer local"
        )
    found = dict.fromkeys((word.strip() for word in words), 0.0)
    for one in top:
        token, value = (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
        if not isinstance(token, str) or not isinstance(value, int | float) or not value < 1e-3:
            raise UserError(f"endpoint: {url}: top_logprobs holds {one!r:.80}")
        if token.strip() in found:
            found[token.strip()] += math.exp(value)
    return tuple(min(1.0, found[word.strip()]) for word in words)


def _choice(back: Any, url: str) -> dict[str, Any]:
    choices = back.get("choices") if isinstance(back, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise UserError(f"endpoint: {url}: its answer has no choices; is the address right?")
    found: dict[str, Any] = choices[0]
    return found
