"""JSON Schema pieces for config sections, from the same dataclasses that read them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from mmalign._names import NamedKind


def plain_schema(cls: Any) -> dict[str, Any]:
    """Schema of a dataclass or scalar, definitions inlined under the section itself."""
    return TypeAdapter(cls).json_schema()


def named_schema(kind: NamedKind, classes: Sequence[tuple[str, type]]) -> dict[str, Any]:
    """Schema of a named section: one branch per shipped name, and an open one for dotted names."""
    branches: list[dict[str, Any]] = []
    for name, cls in classes:
        branch = plain_schema(cls)
        branch["properties"] = {kind.key: {"const": name}, **branch.get("properties", {})}
        branch["required"] = [kind.key, *branch.get("required", [])]
        branch["additionalProperties"] = False
        branch["title"] = name
        branch["description"] = (inspect.getdoc(cls) or "").split("\n")[0]
        branches.append(branch)
    own = {"type": "object", "properties": {kind.key: {"pattern": ":"}}, "required": [kind.key]}
    return {"anyOf": [*branches, own]}
