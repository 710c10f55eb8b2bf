"""What can be chosen by name, what each needs, and which combinations work; no model library is loaded."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any

from mmalign._fields import described
from mmalign._names import KINDS, class_of, names
from mmalign._schema import plain_schema
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
SECTION = "section of a config"
_SECTIONS = {
    name.lower(): f"mmalign.config:{name}"
    for name in ("Train", "Lora", "Reference", "Views", "Online", "Evaluation", "Log")
} | {"build": "mmalign.builders._config:BuildConfig"}
"""Sections without a name of their own, and the whole of a build's config."""
_ELSEWHERE = {kind: topic for topic, kind in TOPICS.items()} | {
    "heldout": "sources",
    "reward": "rewards",
    "frames": "video_lm",
    "generation": "vlm",
    "blind": "online",
}
"""Other words of a config, and under which topic or name their fields stand."""


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
        if place := _ELSEWHERE.get(topic):
            what = f"what {topic!r} takes is" if place in TOPICS else f"the fields of {topic!r} are"
            raise UserError(f"list: {what} listed by: mmalign list {place}")
        raise UserError(
            f"list: no topic {topic!r}; topics: {', '.join(TOPICS)}; or give a name of one of them, or a "
            f"section: {', '.join(_SECTIONS)}"
        )
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
    """Topics that have something of this name: a plain one, module:Class of the built-in world, or a section
    of a config."""
    dotted = [topic for topic, names_ in _SHAPES.items() if name in names_]
    dotted += [SECTION] if name in _SECTIONS else []
    return [topic for topic, kind in TOPICS.items() if name in names(KINDS[kind])] + dotted


def shapes(topic: str) -> dict[str, str]:
    """What the built-in world of shapes has for a topic: module:Class -> what it is in a line."""
    found = {name: class_of(KINDS[TOPICS[topic]], name) for name in _SHAPES.get(topic, ())}
    return {name: _first_line(cls) for name, cls in found.items()}


def told(name: str, places: list[str], as_json: bool = False) -> str:
    """What the things of one name, in some topics, say of themselves and of their fields, as text or as JSON
    Schemas by topic."""
    if as_json:
        return json.dumps({place: plain_schema(_class(place, name)) for place in places}, indent=2)
    lines = []
    for place in places:
        lines.append(f"{name} ({place})")
        lines += [f"  {line}".rstrip() for line in told_of(place, name)]
    return "\n".join(lines)


def told_of(topic: str, name: str) -> list[str]:
    """What one thing says of itself, line by line, and then its config keys."""
    words = (inspect.getdoc(_class(topic, name)) or "").split("\n")
    return [*words, "", "fields, with defaults where there are any", *(fields_of(topic, name) or ["none"])]


def fields_of(topic: str, name: str) -> list[str]:
    """The config keys of one thing as "name: type = default", a required one without a default, each with its
    meaning beneath; those of a nested section further in."""
    return described(_class(topic, name))


def _class(topic: str, name: str) -> Any:
    if topic == SECTION:
        return class_of(KINDS["builder"], _SECTIONS[name])
    return class_of(KINDS[TOPICS[topic]], name)


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
