"""The JSON Schema of a config file: it stands alone and agrees with the reader."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_text import loaded, text
from test_config import FULL

from mmalign._names import KINDS, names
from mmalign.config import schema, to_tree

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
    "integer": int, "number": (int, float),
}  # fmt: skip
KNOWN = {
    "$schema", "title", "description", "default", "type", "properties", "required", "additionalProperties",
    "anyOf", "const", "enum", "pattern", "items", "prefixItems", "minItems", "maxItems", "exclusiveMinimum",
}  # fmt: skip


def valid(rule: Any, value: Any) -> bool:
    """Whether a value satisfies a schema made of the keywords in KNOWN."""
    if rule is True or rule is False:
        return bool(rule)
    if "anyOf" in rule and not any(valid(branch, value) for branch in rule["anyOf"]):
        return False
    if "const" in rule and value != rule["const"] or "enum" in rule and value not in rule["enum"]:
        return False
    if "type" in rule:
        if not isinstance(value, TYPES[rule["type"]]):
            return False
        if isinstance(value, bool) and rule["type"] in ("integer", "number"):
            return False
    if "pattern" in rule and isinstance(value, str) and not re.search(rule["pattern"], value):
        return False
    if "exclusiveMinimum" in rule and not value > rule["exclusiveMinimum"]:
        return False
    if isinstance(value, list):
        return _valid_list(rule, value)
    return _valid_mapping(rule, value) if isinstance(value, dict) else True


def _valid_list(rule: dict[str, Any], value: list[Any]) -> bool:
    if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
        return False
    first = rule.get("prefixItems", [])
    rest = rule.get("items", True)
    return all(valid(first[i] if i < len(first) else rest, item) for i, item in enumerate(value))


def _valid_mapping(rule: dict[str, Any], value: dict[str, Any]) -> bool:
    if any(key not in value for key in rule.get("required", [])):
        return False
    properties, others = rule.get("properties", {}), rule.get("additionalProperties", True)
    return all(valid(properties.get(key, others), item) for key, item in value.items())


def rules(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside a schema."""
    if not isinstance(node, dict):
        return
    yield node
    for key in ("anyOf", "prefixItems"):
        for inner in node.get(key, []):
            yield from rules(inner)
    for inner in (node.get("items"), node.get("additionalProperties"), *node.get("properties", {}).values()):
        yield from rules(inner)


WHOLE = schema()


def test_only_plain_keywords_and_no_references() -> None:
    for rule in rules(WHOLE):
        assert set(rule) <= KNOWN, set(rule) - KNOWN


def test_every_shipped_name_has_a_branch() -> None:
    for section in ("model", "data", "objective", "transforms"):
        found = {rule["const"] for rule in rules(WHOLE["properties"][section]) if "const" in rule}
        assert found == set(names(KINDS[section])), section


@pytest.mark.parametrize("content", [text(), FULL], ids=["short", "full"])
def test_written_and_resolved_configs_are_valid(content: str, tmp_path: Path) -> None:
    assert valid(WHOLE, yaml.safe_load(content))
    assert valid(WHOLE, to_tree(loaded(tmp_path, content)))


@pytest.mark.parametrize(
    "change",
    [
        {"train": None},
        {"trian": "{steps: 1}"},
        {"train": "{steps: 10, stpes: 3}"},
        {"train": "{steps: 10, batch: true}"},
        {"train": "{steps: 10, betas: [0.9]}"},
        {"train": "{steps: 10, schedule: cos}"},
        {"model": "{adapter: text}"},
        {"model": "{adapter: text, path: m, generation: {top: 1}}"},
        {"model": "{path: m}"},
        {"objective": "{name: dpoo}"},
        {"objective": "{name: dpo, tau: 1}"},
        {"objective": "{name: dpo, weight: 1}"},
        {"objective": "[{name: dpo, weight: 0}]"},
        {"transforms": "[{name: length_desensitized, weight: 1}]"},
        {"reference": "{name: adapter}"},
        {"seed": "abc"},
    ],
    ids=str,
)
def test_refuses_what_the_reader_refuses(change: dict[str, str | None], tmp_path: Path) -> None:
    content = text(**change)
    assert not valid(WHOLE, yaml.safe_load(content))
    with pytest.raises(ValueError):
        loaded(tmp_path, content)


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "{name: 'my.losses:Mine', anything: 1}"},
        {"objective": "[{name: dpo, weight: 2}, {name: 'my.losses:Mine', weight: 1}]"},
        {"lora": "null"},
        {"heldout": "null"},
        {"cache": "null"},
        {"evaluation": "{judge: 'my.judges:Strict'}"},
        {"evaluation": "{judge: {name: 'my.judges:Strict', level: 3}}"},
        {"transforms": "{name: length_desensitized}"},
    ],
    ids=str,
)
def test_accepts_what_the_reader_accepts(change: dict[str, str | None]) -> None:
    assert valid(WHOLE, yaml.safe_load(text(**change)))
