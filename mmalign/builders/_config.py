"""The config of a build: a YAML file with `section.field=value` overrides -> one frozen `BuildConfig`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmalign._build import build_named, build_plain, named_tree, plain_tree, refuse_unknown
from mmalign._evaluation import prompt_file
from mmalign._names import KINDS, name_of
from mmalign._yaml import apply_overrides, parse_file, telling, text_of
from mmalign.data._sources import RecordSource, SampleSource
from mmalign.types import UserError
from mmalign.writing import Writer


@dataclass(frozen=True)
class BuildLog:
    """What is printed; changes nothing in the build."""

    progress: bool = True  # show a progress bar


@dataclass(frozen=True)
class BuildConfig:
    """A whole build; sections that carry a name hold an instance of the dataclass it stands for."""

    builder: Any  # what makes rows, a name of `mmalign list builders` with its fields
    # a data source, {source: jsonl, path: F}, of whose rows the prompts are used, or a prompt file,
    # {name: lines, path: F}, of `mmalign list prompts`
    prompts: Any
    judge: Any = None  # a reward that scores or compares answers; none for a builder that asks no judge
    helper: Any = None  # who writes for a builder that asks for it
    model: Any = None  # as in a training config
    run: str | None = None  # in place of model: folder of a run, whose trained model answers
    num_prompts: int | None = None  # the first so many different prompts; null: all
    batch: int = 8  # prompts whose answers are sampled and scored together
    log: BuildLog = field(default_factory=BuildLog)  # what is printed
    output: str = "runs/build"  # folder that gets rows, media and record; new, empty, or of this very build
    seed: int = 0  # of all that is drawn

    def __post_init__(self) -> None:
        if self.model is not None and self.run is not None:
            raise ValueError("model: give exactly one of model and run")
        if self.model is None and self.run is None:
            if self.builder.asks_model == "yes":
                raise ValueError("model: give exactly one of model and run")
            if self.helper is None:
                raise ValueError("model: give model or run, or a helper, who makes do without")
        _refuse_unasked("judge", self.judge, self.builder, _ASKS[self.builder.asks_judge])
        _refuse_unasked("helper", self.helper, self.builder, self.builder.asks_helper)
        if self.batch < 1:
            raise ValueError(f"batch: must be above 0, got {self.batch}")
        if self.num_prompts is not None and self.num_prompts < 1:
            raise ValueError(f"num_prompts: must be above 0, got {self.num_prompts}")


_ASKS: dict[Any, str] = {True: "yes", False: "no", "may": "may"}


def _refuse_unasked(section: str, value: Any, builder: Any, asks: str) -> None:
    """Raise ValueError where a section is missing that the builder asks for, or there for nothing."""
    name = name_of(KINDS["builder"], type(builder))
    if value is None and asks == "yes":
        raise ValueError(f"section {section} is missing, which builder {name} asks for")
    if value is not None and asks == "no":
        raise ValueError(f"{section}: builder {name} asks none; leave the section out")


_SECTIONS = [f.name for f in dataclasses.fields(BuildConfig)]
_SCALARS: dict[str, Any] = {
    "run": str | None,
    "num_prompts": int | None,
    "batch": int,
    "output": str,
    "seed": int,
}
_NONE = ("model", "run", "num_prompts", "judge", "helper")
_REQUIRED = ("builder", "prompts")
FREE = ("output", "log")
"""Sections that may differ between two parts of one build."""


def load(
    path: str | Path, overrides: Sequence[str] = (), allow_code: bool = False, notes: list[str] | None = None
) -> BuildConfig:
    """Read a build's config file and apply overrides in order.

    Raises UserError with one line naming the file or override, the key and the rule. What an override dropped
    is said on stderr, or added to `notes` for the caller to say later.
    """
    said: list[str] = [] if notes is None else notes
    tree = apply_overrides(parse_file(Path(path)), overrides, said)
    with telling(said):
        config = from_tree(tree, str(path), allow_code)
    if notes is None:
        for line in said:
            print(line, file=sys.stderr)
    return config


def from_tree(tree: Mapping[str, Any], where: str, allow_code: bool = False) -> BuildConfig:
    """Build and check a BuildConfig from plain mappings, lists and scalars."""
    if "objective" in tree and "builder" not in tree:
        raise UserError(f"{where}: has an objective and no builder: a config for `mmalign train`, not build")
    refuse_unknown(tree, _SECTIONS, where)
    sections: dict[str, Any] = {}
    for name in _REQUIRED:
        if tree.get(name) is None:
            raise UserError(f"{where}: section {name} is missing")
    for name, value in tree.items():
        here = f"{where}: {name}"
        if value is None and name in _NONE:
            continue
        if name in _SCALARS:
            sections[name] = build_plain(_SCALARS[name], value, here)
        elif name == "log":
            sections[name] = build_plain(BuildLog, {} if value is None else value, here)
        elif name == "prompts":
            sections[name] = _prompts(value, here, allow_code)
        else:
            named = {"name": value} if name != "model" and isinstance(value, str) else value
            sections[name] = build_named(KINDS[name], named, here, allow_code)
    try:
        return BuildConfig(**sections)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _prompts(value: Any, where: str, allow_code: bool) -> Any:
    if isinstance(value, Mapping) and KINDS["data"].key in value:
        return build_named(KINDS["data"], value, where, allow_code)
    return prompt_file(value, where, allow_code)


def to_tree(config: BuildConfig) -> dict[str, Any]:
    """The resolved config as plain values, defaults written out; `from_tree` gives the same config back."""
    tree: dict[str, Any] = {}
    for name in _SECTIONS:
        value = getattr(config, name)
        if value is None and name in ("model", "run", "judge", "helper"):
            continue
        if name == "prompts":
            tree[name] = named_tree(KINDS["data" if is_source(value) else "prompts"], value)
        elif name in ("builder", "judge", "helper", "model"):
            tree[name] = named_tree(KINDS[name], value)
        else:
            tree[name] = plain_tree(value)
    return tree


def is_source(prompts: Any) -> bool:
    """True for a data source, False for a prompt file."""
    return isinstance(prompts, RecordSource | SampleSource)


def dump(config: BuildConfig) -> str:
    """The resolved config as YAML text."""
    return text_of(to_tree(config))


def comparable(config: BuildConfig) -> dict[str, Any]:
    """What makes a build the same build, as plain values: everything but its folder, what it prints, and how
    its helper is asked."""
    tree = {name: section for name, section in to_tree(config).items() if name not in FREE}
    if isinstance(config.helper, Writer):
        idle = config.helper.indifferent
        tree["helper"] = {name: value for name, value in tree["helper"].items() if name not in idle}
    return tree


def identity(config: BuildConfig) -> str:
    """Hash of what makes a build the same build."""
    return hashlib.sha256(json.dumps(comparable(config), sort_keys=True).encode()).hexdigest()[:16]
