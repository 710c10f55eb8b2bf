"""Plain values -> dataclasses: our own pass for readable refusals, then pydantic for the types."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from mmalign._names import KINDS, NamedKind, class_of, name_of, refuse_code
from mmalign.types import UserError


def refuse_unknown(tree: Any, known: Iterable[str], where: str) -> None:
    """Raise UserError for a key that no field has, with the nearest valid key and all of them."""
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: must be a mapping of key: value, got {_show(tree)}")
    known = list(known)
    for key in tree:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            section = where.rpartition(": ")[2]
            dotted = f"{section}." if ": " in where else ""
            hint = f"did you mean {dotted}{near[0]}? " if near else ""
            raise UserError(f"{where}: unknown key {key}; {hint}valid keys: {', '.join(known)}")


def build_plain(cls: Any, value: Any, where: str) -> Any:
    """A dataclass or scalar from plain values. Raises UserError naming the field, the value and the rule."""
    _check(cls, value, where)
    try:
        return _adapter(cls).validate_python(value, extra="forbid" if _is_record(cls) else None)
    except ValidationError as error:
        first = error.errors()[0]
        fields = [str(p) for p in first["loc"] if isinstance(p, int) or _is_field(p)]
        place = ".".join([where, *fields])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise UserError(_own_rule(where, fields, message)) from error
        if first["type"] == "missing":
            raise UserError(f"{place}: this field is required") from error
        if first["type"] == "dict_type":
            raise UserError(
                f"{place}: must be a mapping of key: value, got {_show(first['input'])}"
            ) from error
        raise UserError(f"{place}: {message[0].lower()}{message[1:]}, got {_show(first['input'])}") from error
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise UserError(f"{where}: {cls.__name__} has a field that no config can fill: {error}") from error


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    """What fills a class; making one costs more than all that it does."""
    return TypeAdapter(cls)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return get_type_hints(cls)


def _is_field(part: str) -> bool:
    """False for what pydantic names besides fields: the branch of a union that it tried, such as int."""
    return part.isidentifier() and part not in ("int", "float", "str", "bool", "none", "list", "dict")


def _own_rule(where: str, fields: list[str], message: str) -> str:
    """The line of a dataclass's own check, "field: rule", under the section that the dataclass fills."""
    place = ".".join([where, *fields])
    if ": " not in message:
        return f"{place}: {message}"
    last = fields[-1] if fields else ""
    if last and message.startswith((f"{last}:", f"{last}.")):  # the check names its own section already
        return f"{place}{message.removeprefix(last)}"
    return f"{place}.{message}"


def build_named(kind: NamedKind, value: Any, where: str, allow_code: bool) -> Any:
    """An instance of the class a section names."""
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: must be a mapping with {kind.key}: NAME, got {_show(value)}")
    name = value.get(kind.key)
    if not isinstance(name, str):
        raise UserError(f"{where}: needs {kind.key}: NAME, the {kind.word} to use")
    cls = class_of(kind, name, where, allow_code)
    rest = {k: v for k, v in value.items() if k != kind.key}
    refuse_unknown(rest, [f.name for f in dataclasses.fields(cls) if f.init], where)
    _refuse_code(cls, rest, where, allow_code)
    return build_plain(cls, rest | _sections_by_name(cls, rest), where)


def _sections_by_name(cls: type, section: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Sections that a section's fields hold as a name alone, as mappings; see `_refuse_code`."""
    held = {
        one.name: KINDS[one.metadata["section"]]
        for one in dataclasses.fields(cls)
        if one.metadata.get("section") in KINDS
    }
    return {
        name: {kind.key: section[name]} for name, kind in held.items() if isinstance(section.get(name), str)
    }


def _refuse_code(cls: Any, section: Mapping[str, Any], where: str, allow_code: bool) -> None:
    """Code outside the package that a section's fields name is refused like a section's own name.

    Such fields say so in their metadata: "imports", a name of code; "judges", a list of judges' sections;
    "section", the kind of thing whose section they hold.
    """
    section = {**section, **_sections_by_name(cls, section)}
    for one in dataclasses.fields(cls):
        value = section.get(one.name)
        if "imports" in one.metadata and isinstance(value, str):
            refuse_code(value, f"{where}.{one.name}", allow_code)
        kind = KINDS.get(one.metadata.get("section", ""))
        if kind is not None and isinstance(value, Mapping) and isinstance(value.get(kind.key), str):
            here = f"{where}.{one.name}"
            inner = class_of(kind, value[kind.key], here, allow_code)
            _refuse_code(inner, value, here, allow_code)
        if "judges" in one.metadata and isinstance(value, list | tuple):
            for place, part in enumerate(value):
                here = f"{where}.{one.name}[{place}]"
                if isinstance(part, Mapping) and isinstance(part.get("name"), str):
                    _refuse_code(
                        class_of(KINDS["judge"], part["name"], here, allow_code), part, here, allow_code
                    )


def _is_record(cls: Any) -> bool:
    return isinstance(cls, type) and dataclasses.is_dataclass(cls)


def _check(hint: Any, value: Any, where: str) -> None:
    """Refuse what pydantic would quietly convert: true as a number, words as numbers, NaN, unknown keys."""
    if _is_record(hint):
        refuse_unknown(value, [f.name for f in dataclasses.fields(hint) if f.init], where)
        hints = _hints(hint)
        for key, inner in value.items():
            _check(hints[key], inner, f"{where}.{key}")
        return
    choices = _flatten(hint)
    numeric = float in choices or int in choices
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: must be a finite number, got {value}")
    if isinstance(value, bool) and numeric and bool not in choices:
        raise UserError(f"{where}: must be a number, got {str(value).lower()}")
    if isinstance(value, str) and numeric and str not in choices:
        _check_numeral(value, where)
    if isinstance(value, str | int | float) and not isinstance(value, bool) and choices == {bool}:
        raise UserError(f"{where}: must be true or false, got {_show(value)}")
    if isinstance(value, list | dict) and numeric and not choices & {list, tuple, dict, Mapping}:
        raise UserError(f"{where}: must be one number, got {_show(value)}")
    for record in (c for c in choices if _is_record(c)):
        if isinstance(value, Mapping):
            _check(record, value, where)
    for inner, item, place in _items(hint, value, where):
        _check(inner, item, place)


def _items(hint: Any, value: Any, where: str) -> list[tuple[Any, Any, str]]:
    """Hint, value and place of everything in a list or mapping, if the hint admits one such container."""
    kinds = (list, tuple) if isinstance(value, list) else (dict, Mapping) if isinstance(value, dict) else ()
    options = [hint] if get_origin(hint) in (list, tuple, dict, Mapping) else get_args(hint)
    fitting = [get_args(o) for o in options if get_origin(o) in kinds]
    if len(fitting) != 1 or not fitting[0]:
        return []
    inner = fitting[0]
    if isinstance(value, dict):
        return [(inner[1], item, f"{where}.{key}") for key, item in value.items()]
    hints = [inner[0]] * len(value) if len(inner) == 1 or inner[1] is Ellipsis else list(inner)
    return [(h, item, f"{where}.{i}") for i, (h, item) in enumerate(zip(hints, value, strict=False))]


def _check_numeral(value: str, where: str) -> None:
    text = value.strip()
    octal = len(text) > 1 and text.lstrip("+-").startswith("0") and text.lstrip("+-").isdigit()
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if "_" in text or octal or not math.isfinite(number):
        raise UserError(f"{where}: must be a number, got {value!r}")


def _flatten(hint: Any) -> set[Any]:
    """The plain types a hint admits: unions opened, containers by their origin, literals by their values."""
    origin = get_origin(hint)
    if origin is None:
        return {hint}
    if origin in (list, tuple, dict, frozenset, set, Mapping):
        return {origin}
    args = get_args(hint)
    if any(not isinstance(a, type) and get_origin(a) is None and a is not None for a in args):
        return {type(a) for a in args}  # Literal
    return set().union(*(_flatten(a) for a in args)) - {type(None)}


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---------------------------------------------------------------- back to plain values


def named_tree(kind: NamedKind, value: Any) -> dict[str, Any]:
    """A dataclass chosen by name as plain values, its name first; `build_named` gives it back."""
    return {kind.key: name_of(kind, type(value)), **plain_tree(value)}


def plain_tree(value: Any) -> Any:
    """Dataclasses and tuples as mappings and lists, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_tree(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain_tree(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_tree(v) for v in value]
    return value


def model_section(tree: Mapping[str, Any], kind: str, cannot: str) -> Any:
    """The section `model` that another section holds. Raises UserError saying what its adapter `cannot` do
    where its scores are of another kind. Whether code of others may be named was decided before."""
    section = build_named(KINDS["model"], tree, "model", allow_code=True)
    if section.kind != kind:
        raise UserError(f"model.adapter: {tree['adapter']} {cannot}")
    return section
