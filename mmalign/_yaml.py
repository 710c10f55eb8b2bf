"""Strict reading of YAML: what a config means may not depend on YAML 1.1's surprises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mmalign._names import KINDS
from mmalign.types import UserError

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """Core-schema scalars only: 5e-6 is a number; no, on, 012, 1_000 and dates stay strings."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(None, None, "anchors and aliases are not supported", event.start_mark)
        tag = getattr(event, "tag", None)
        if tag:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise yaml.MarkedYAMLError(None, None, f"the tag {shown} is not supported", event.start_mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|false|True|False)$"), list("tfTF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf)|\.(?:nan|NaN))$"),
    list("-+.0123456789"),
)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise yaml.MarkedYAMLError(None, None, f"keys must be strings, got {key!r}", key_node.start_mark)
        if key in result:
            raise yaml.MarkedYAMLError(None, None, f"key {key} is given twice", key_node.start_mark)
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse(text: str, where: str) -> Any:
    """YAML text -> plain values. Raises UserError with one line naming `where`, the line and the rule."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with fewer implicit types
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        if "\\t" in problem or "'\t'" in str(error.problem):
            problem = "a tab cannot indent YAML; use spaces"
        raise UserError(f"{where}{line}: {problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not readable as YAML: {' '.join(str(error).split())[:200]}") from error
    if _depth(value) > _MAX_DEPTH:
        raise UserError(f"{where}: nested deeper than {_MAX_DEPTH} levels")
    return value


def _depth(value: Any) -> int:
    depth, layer = 0, [value]
    while layer and depth <= _MAX_DEPTH:
        depth += 1
        layer = [v for item in layer for v in _children(item)]
    return depth


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def parse_file(path: Path) -> dict[str, Any]:
    """A config file -> mapping of sections."""
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give the YAML file")
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise UserError(f"{path}: larger than 1 MiB; that is not a config")
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error
    tree = parse(text, str(path))
    if tree is None:
        raise UserError(f"{path}: the file is empty")
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must hold sections (key: value), holds a {type(tree).__name__}")
    return tree


def text_of(tree: Mapping[str, Any]) -> str:
    """Plain values as YAML text that `parse` reads back."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)


def _lost(section: Any, key: str) -> str:
    """What a section held besides its name, in a few words."""
    if isinstance(section, list):
        return f"a list of {len(section)}"
    fields = section.items() if isinstance(section, dict) else ()
    return ", ".join(f"{name} {value}" for name, value in fields if name != key)


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str], notes: list[str]) -> dict[str, Any]:
    """A copy of the tree with `section.field=value` assignments applied in order.

    Naming another class for a named section drops the section's other keys, since they belonged to the old
    class; a line that says so is added to `notes`.
    """
    result = _copy(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise UserError(f"override {override!r}: write section.field=value")
        value = parse(text, f"override {key}")
        kind = KINDS.get(path[0])
        current = result.get(path[0])
        if kind and path[1:] == [kind.key]:
            if not isinstance(current, dict) or current.get(kind.key) != value:
                lost = _lost(current, kind.key)
                if lost:
                    notes.append(f"{path[0]}: {value} replaces the whole section; dropped: {lost}")
                result[path[0]] = {kind.key: value}
            continue
        _assign(result, path, value, override)
    return result


@contextmanager
def telling(dropped: Sequence[str]) -> Iterator[None]:
    """Put what overrides dropped of a section before a refusal that is about this section, in one line: a
    field that is missing now may have been there."""
    try:
        yield
    except UserError as error:
        told = [line for line in dropped if f": {line.partition(':')[0]}" in str(error)]
        if not told:
            raise
        raise UserError("; ".join([*told, f"then {error}"])) from error


def _assign(tree: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    node: Any = tree
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, list):
            if not key.isdecimal() or int(key) >= len(node):
                raise UserError(f"override {override!r}: {key} is no place in a list of {len(node)}")
            if last:
                node[int(key)] = value
            else:
                node = node[int(key)]
        elif isinstance(node, dict):
            if last:
                node[key] = value
            else:
                if node.get(key) is None:
                    node[key] = {}
                node = node[key]
        else:
            raise UserError(f"override {override!r}: {'.'.join(path[:depth])} holds a value, not a section")


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value
