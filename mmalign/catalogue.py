"""What can be chosen by name, what each needs, and which combinations work; no model library is loaded."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

from mmalign._names import KINDS, class_of, names
from mmalign.data._views import unseen
from mmalign.rewards._reads import WORDS, reads_of
from mmalign.types import Objective, UserError

TOPICS = {
    "objectives": "objective",
    "adapters": "model",
    "sources": "data",
    "formats": "format",
    "transforms": "transforms",
    "rewards": "judge",
    "writers": "helper",
    "builders": "builder",
    "prompts": "prompts",
    "metrics": "metrics",
}

_SHAPES = {
    "sources": tuple(
        f"mmalign.shapes.sources:{name}" for name in ("ImagePairs", "CaptionPairs", "ClipPairs")
    ),
    "rewards": tuple(
        f"mmalign.shapes.judges:{name}"
        for name in ("ImageJudge", "StoryJudge", "CaptionJudge", "MotionJudge")
    ),
    "metrics": ("mmalign.shapes.metrics:Chair", "mmalign.shapes.metrics:Pope"),
}
"""What the quickstart's world has, by its dotted names."""


@dataclass(frozen=True)
class Entry:
    """One selectable thing. `adapters` maps each adapter to True, or to what the adapter lacks."""

    topic: str
    name: str
    summary: str
    needs: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()  # the frozen models an objective scores besides the policy
    adapters: dict[str, bool | str] | None = None
    reads: tuple[str, ...] = ()  # the kinds of answers a reward scores: texts, pictures, clips


def catalogue(topic: str | None = None, adapter: str | None = None) -> list[Entry]:
    """Entries of one topic or of all; with `adapter` only what that adapter can run.

    Raises UserError for an unknown topic or adapter.
    """
    if topic is not None and topic not in TOPICS:
        raise UserError(f"list: no topic {topic!r}; topics: {', '.join(TOPICS)}; or give a name")
    adapters = {name: class_of(KINDS["model"], name) for name in names(KINDS["model"])}
    if adapter is not None and adapter not in adapters:
        raise UserError(f"list --adapter: no adapter {adapter!r}; known: {', '.join(adapters)}")
    shown = [topic] if topic else list(TOPICS)
    entries = [
        _entry(t, name, class_of(KINDS[TOPICS[t]], name), adapters)
        for t in shown
        for name in names(KINDS[TOPICS[t]])
    ]
    if adapter is None:
        return entries
    return [e for e in entries if e.adapters is None or e.adapters[adapter] is True]


def topics_of(name: str) -> list[str]:
    """Topics that have something of this name: a plain one, or module:Class of the built-in world."""
    dotted = [topic for topic, names_ in _SHAPES.items() if name in names_]
    return [topic for topic, kind in TOPICS.items() if name in names(KINDS[kind])] + dotted


def shapes(topic: str) -> dict[str, str]:
    """What the built-in world of shapes has for a topic: module:Class -> what it is in a line."""
    found = {name: class_of(KINDS[TOPICS[topic]], name) for name in _SHAPES.get(topic, ())}
    return {name: _first_line(cls) for name, cls in found.items()}


def told_of(topic: str, name: str) -> list[str]:
    """What one thing says of itself, line by line, and then its config keys."""
    words = (inspect.getdoc(class_of(KINDS[TOPICS[topic]], name)) or "").split("\n")
    return [*words, "", "fields, with defaults where there are any", *(fields_of(topic, name) or ["none"])]


def fields_of(topic: str, name: str) -> list[str]:
    """The config keys of one thing as "name: type = default", a required one without a default."""
    cls: Any = class_of(KINDS[TOPICS[topic]], name)
    found = []
    for one in dataclasses.fields(cls):
        if not one.init:
            continue
        line = f"{one.name}: {_shown(one.type)}"
        if one.default is not dataclasses.MISSING:
            line += f" = {_plain(one.default)}"
        elif one.default_factory is not dataclasses.MISSING:
            line += f" = {_plain(one.default_factory())}"
        found.append(line)
    return found


def _shown(kind: Any) -> str:
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return type(value).__name__ if dataclasses.is_dataclass(value) else str(value)


def _first_line(cls: Any) -> str:
    return (inspect.getdoc(cls) or "").split("\n")[0]


def lacking(needs: frozenset[str], offers: frozenset[str]) -> list[str]:
    """What an adapter lacks for an objective or transform, sorted. One that does not ask for rewards reads
    likelihoods, even if it needs nothing else, and a reward model has none."""
    missing = sorted(needs - offers)
    if not missing and "reward" in offers and not needs & {"reward", "aspects"}:
        return ["likelihood"]
    return missing


def _entry(topic: str, name: str, cls: Any, adapters: dict[str, Any]) -> Entry:
    summary = (inspect.getdoc(inspect.getmodule(cls)) or inspect.getdoc(cls) or "").split("\n")[0]
    if topic == "adapters":
        return Entry(topic, name, summary, offers=tuple(sorted(cls.offers)))
    if topic not in ("objectives", "transforms"):
        reads = reads_of(cls) if topic == "rewards" else None
        return Entry(
            topic, name, summary, reads=tuple(WORDS[kind] for kind in WORDS if kind in (reads or ()))
        )
    part = cls()  # objectives and transforms have a default for every field
    works: dict[str, bool | str] = {}
    for adapter_name, adapter in adapters.items():
        missing = lacking(part.needs, adapter.offers)
        works[adapter_name] = f"lacks {', '.join(missing)}" if missing else True
        if isinstance(part, Objective) and not missing and (kinds := unseen(part.views, adapter.media)):
            works[adapter_name] = f"reads no {kinds} in prompts"
    sources = tuple(s for s in part.roles if s != "policy") if topic == "objectives" else ()
    return Entry(topic, name, summary, tuple(sorted(part.needs)), sources=sources, adapters=works)
