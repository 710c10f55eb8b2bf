"""Names are files: from a name in a config to the one public dataclass it stands for, and back."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.types import UserError

_PLAIN = re.compile(r"[a-z][a-z0-9_]*")
_DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")

_FUNCTION = "python_function"
"""What stands for a function of the user's own, among kinds that have it."""


@dataclass(frozen=True)
class NamedKind:
    """A kind of thing chosen by name: the folder its files live in and the key that names it in a section."""

    folder: str
    key: str
    word: str


KINDS: dict[str, NamedKind] = {
    "model": NamedKind("adapters", "adapter", "adapter"),
    "data": NamedKind("data", "source", "source"),
    "heldout": NamedKind("data", "source", "source"),
    "objective": NamedKind("objectives", "name", "objective"),
    "transforms": NamedKind("objectives/_transforms", "name", "transform"),
    "judge": NamedKind("rewards", "name", "reward"),
    "reward": NamedKind("rewards", "name", "reward"),
    "helper": NamedKind("writers", "name", "writer"),
    "prompts": NamedKind("evaluation/prompts", "name", "prompt file"),
    "metrics": NamedKind("metrics", "name", "metric"),
    "builder": NamedKind("builders", "name", "builder"),
    "format": NamedKind("data/formats", "format", "format"),
}


def names(kind: NamedKind) -> list[str]:
    """Every plain name of a kind: the files of its folder that do not start with an underscore."""
    folder = Path(__file__).parent / kind.folder
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def class_of(kind: NamedKind, name: str, where: str = "config", allow_code: bool = False) -> type:
    """The dataclass a plain or dotted name stands for. Raises UserError with the nearest valid name."""
    dotted = _DOTTED.fullmatch(name)
    if dotted:
        return _dotted(kind, name, where, allow_code)
    file = Path(__file__).parent / kind.folder / f"{name}.py"
    if not _PLAIN.fullmatch(name) or not file.is_file():
        known = names(kind)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"{where}.{kind.key}: no {kind.word} is called {name!r}; {hint}known: "
            f"{', '.join(known) or 'none'}; your own go by package.module:Class"
        )
    return _only_class(f"mmalign.{kind.folder.replace('/', '.')}.{name}")


@functools.cache
def _only_class(name: str) -> type:
    """The one public dataclass of a module."""
    module = importlib.import_module(name)
    found = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]
    assert len(found) == 1, f"{module.__name__} must define exactly one public dataclass, has {len(found)}"
    return found[0]


def _dotted(kind: NamedKind, name: str, where: str, allow_code: bool) -> type:
    refuse_code(name, where, allow_code)
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{where}: {name}: no module named {error.name}") from error
    except AttributeError as error:
        raise UserError(f"{where}: {name}: {module_name} has no class {class_name}") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        if inspect.isfunction(found) and _FUNCTION in names(kind):
            section = f"{{{kind.key}: {_FUNCTION}, function: {name}}}"
            raise UserError(f"{where}: {name} is a function, not a class; write {section}")
        raise UserError(f"{where}: {name} must be a dataclass")
    return found


def refuse_code(name: str, where: str, allow_code: bool) -> None:
    """Raise UserError for a dotted name of code outside the package, unless such code is allowed."""
    if not (allow_code or name.partition(":")[0].split(".")[0] == "mmalign"):
        raise UserError(
            f"{where}: {name} would import code from outside mmalign; "
            "pass --allow-code (Python: mmalign.open_run(folder, allow_code=True)) if you trust where this "
            "config comes from"
        )


def function_of(name: str, where: str) -> Callable[..., Any]:
    """The function that package.module:function names. Raises UserError for a module or name that is not
    there and for what is no function; whether code may be named is decided before, by `refuse_code`."""
    module, _, short = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), short)
    except ModuleNotFoundError as error:
        raise UserError(f"{where}: {name}: no module named {error.name}") from error
    except AttributeError as error:
        raise UserError(f"{where}: {name}: {module} has no {short}") from error
    if not callable(found):
        raise UserError(f"{where}: {name}: must be a function, is {type(found).__name__}")
    called: Callable[..., Any] = found
    return called


def refuse_misshapen(call: Callable[..., Any], name: str, who: str, form: str, given: int) -> None:
    """Raise UserError for a function that does not take `given` values in order; `form` says what is needed.
    One whose signature cannot be told, as of some written in C, passes."""
    try:
        found = inspect.signature(call)
    except (TypeError, ValueError):
        return
    try:
        found.bind(*[None] * given)
    except TypeError as error:
        short = name.rpartition(":")[2]
        raise UserError(f"{who} {name}: must be {form}, is {short}{found}") from error


def call_own(call: Callable[..., Any], name: str, who: str, *given: Any) -> Any:
    """What a function of the user's own returns. Raises UserError naming it for whatever it raises; a
    UserError of its own stays as it is."""
    try:
        return call(*given)
    except UserError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300] or "no message"
        raise UserError(
            f"{who} {name} raised {type(error).__name__}: {said} (--debug shows where)"
        ) from error


def check_function(name: str) -> None:
    """Raise ValueError unless a name has the form package.module:function."""
    module, _, short = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), short)):
        raise ValueError(f"function: must be package.module:function, got {name!r}")


def name_of(kind: NamedKind, cls: type) -> str:
    """The name that `class_of` turns into this class."""
    prefix = f"mmalign.{kind.folder.replace('/', '.')}."
    short = cls.__module__.removeprefix(prefix)
    plain = cls.__module__.startswith(prefix) and _PLAIN.fullmatch(short) and not short.startswith("_")
    return short if plain else f"{cls.__module__}:{cls.__qualname__}"
