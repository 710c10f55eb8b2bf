"""JSON Schema pieces for config sections, from the same dataclasses that read them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from mmalign._fields import every_nested, meanings
from mmalign._names import NamedKind


def plain_schema(cls: Any) -> dict[str, Any]:
    """Schema of a dataclass or scalar. Nested dataclasses stand in place, not behind references, so that the
    piece means the same wherever it is put; keys that are no fields are refused."""
    schema = TypeAdapter(cls).json_schema()
    definitions = schema.pop("$defs", {})
    for one in every_nested(cls):
        describe(schema if one is cls else definitions[one.__name__], one)
    return _closed(_inlined(schema, definitions))


def describe(schema: dict[str, Any], cls: type) -> None:
    """Put the meaning of a dataclass's fields into its schema."""
    for name, said in meanings(cls).items():
        if said and name in schema["properties"]:
            schema["properties"][name]["description"] = said


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str):
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _inlined({**definitions[reference.rpartition("/")[2]], **beside}, definitions)
    return {key: _inlined(value, definitions) for key, value in node.items()}


def _closed(node: Any) -> Any:
    """Objects with named properties take no others, as in the reader."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    if node.get("type") == "object" and isinstance(node.get("properties"), dict):
        closed["additionalProperties"] = False
    return closed


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a section that may also be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def named_schema(
    kind: NamedKind, classes: Sequence[tuple[str, type]], weighted: bool = False
) -> dict[str, Any]:
    """Schema of a named section: one branch per shipped name, and an open one for dotted names. With
    `weighted` the section is a term of a list and may carry a weight."""
    extra = {"weight": {"type": "number", "exclusiveMinimum": 0}} if weighted else {}
    branches: list[dict[str, Any]] = []
    for name, cls in classes:
        branch = plain_schema(cls)
        branch["type"] = "object"
        branch["properties"] = {kind.key: {"const": name}, **extra, **branch.get("properties", {})}
        branch["required"] = [kind.key, *branch.get("required", [])]
        branch["additionalProperties"] = False
        branch["title"] = name
        branch["description"] = (inspect.getdoc(cls) or "").split("\n")[0]
        branches.append(branch)
    dotted = {"type": "string", "pattern": ":"}
    own = {"type": "object", "properties": {kind.key: dotted}, "required": [kind.key]}
    return {"anyOf": [*branches, own]}
