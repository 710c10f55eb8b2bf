"""What the fields of a config mean, which values they take, and what is nested in them.

A field's meaning is the comment behind it in its dataclass, or else the comment lines right above it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from io import StringIO
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_FOR_TOOLS = ("# noqa", "# type:", "# fmt:", "# ---")


@cache
def meanings(cls: type) -> Mapping[str, str]:
    """Every field's meaning by its name, "" where the source has none. A derived class that gives a field
    another default may leave the meaning as it is."""
    found = {one.name: "" for one in dataclasses.fields(cls)}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            said = _said_in(_file_of(base)).get(base.__qualname__, {})
            found |= {name: words for name, words in said.items() if words and name in found}
    return found


def described(cls: type, given: Any = None) -> list[str]:
    """The fields line by line, "name: type = default" and the meaning beneath; those of a nested dataclass
    follow, further in. `given`: an instance whose values stand as defaults."""
    lines = []
    hints, said = get_type_hints(cls), meanings(cls)
    for one in dataclasses.fields(cls):
        if not one.init:
            continue
        value = _default(one) if given is None else getattr(given, one.name)
        line = f"{one.name}: {shown(hints[one.name])}"
        if value is not dataclasses.MISSING and not dataclasses.is_dataclass(value):
            line += f" = {plain(value)}"
        lines.append(line)
        lines += textwrap.wrap(said[one.name], 96, initial_indent="    ", subsequent_indent="    ")
        for part in nested(hints[one.name]):
            own = described(part, value if isinstance(value, part) else None)
            lines += [f"    {deeper}" for deeper in own]
    return lines


def nested(hint: Any) -> list[type]:
    """The dataclasses that a type holds, in the order of its parts."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [cls for part in get_args(hint) for cls in nested(part)]


def every_nested(hint: Any) -> list[type]:
    """The dataclasses that a type holds, and all that they hold in turn."""
    found = []
    for cls in nested(hint):
        inner = [get_type_hints(cls)[one.name] for one in dataclasses.fields(cls) if one.init]
        found += [cls, *(deeper for hint in inner for deeper in every_nested(hint))]
    return list(dict.fromkeys(found))


def shown(hint: Any) -> str:
    """A type as it reads in a config: choices as they are written, null for None."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in (None, NoneType):
        return "null"
    if origin is Literal:
        return " | ".join(plain(value) for value in parts)
    if origin in (Union, UnionType):
        return " | ".join(shown(part) for part in parts)
    if origin is None:
        return "section" if hint is Any else hint.__name__
    if parts == (str, Any):  # whose fields depend on its name
        return "section"
    inner = ", ".join(shown(part) for part in parts if part is not Ellipsis)
    return f"{'mapping' if issubclass(origin, Mapping) else 'list'}[{inner}]"


def plain(value: Any) -> str:
    """A value as it is written in a config."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(plain(one) for one in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {plain(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        return value if value.strip() == value != "" and "\n" not in value else json.dumps(value)
    return json.dumps(value)


def _default(one: dataclasses.Field[Any]) -> Any:
    return one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default


def _file_of(cls: type) -> str:
    """The file that a class was read from; "" for one made otherwise."""
    try:
        return inspect.getsourcefile(cls) or ""
    except TypeError:
        return ""


@cache
def _said_in(file: str) -> dict[str, dict[str, str]]:
    """By class and field, what the comments of a file of source say; nothing where there is none."""
    if not Path(file).is_file():
        return {}
    with tokenize.open(file) as opened:
        text = opened.read()
    found: dict[str, dict[str, str]] = {}
    lines = text.splitlines()
    for name, body in _classes(ast.parse(text), ""):
        found[name] = {
            node.target.id: _words(lines, node.lineno, node.end_lineno or node.lineno)
            for node in body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
    return found


def _classes(node: ast.AST, within: str) -> Iterator[tuple[str, list[ast.stmt]]]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.ClassDef):
            yield within + inner.name, inner.body
            yield from _classes(inner, f"{within}{inner.name}.")


def _words(lines: list[str], first: int, last: int) -> str:
    """The comments behind lines `first` to `last`, counted from 1, or else those right above."""
    behind = _comments(lines[first - 1 : last])
    if behind:
        return " ".join(behind)
    above = first - 1
    while above and lines[above - 1].lstrip().startswith("#"):
        above -= 1
    return " ".join(_comments(lines[above : first - 1]))


def _comments(lines: list[str]) -> list[str]:
    """What the comments in some whole lines of source say, without those for tools."""
    source = StringIO(textwrap.dedent("\n".join(lines)))
    found = [one.string for one in tokenize.generate_tokens(source.readline) if one.type == tokenize.COMMENT]
    return [words.strip("# ") for words in found if not words.startswith(_FOR_TOOLS)]
