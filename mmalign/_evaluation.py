"""Section `evaluation` of a config: its fields, the judges and prompt files it names, and its schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmalign._build import build_named, build_plain, named_tree, plain_tree
from mmalign._names import KINDS, class_of, names
from mmalign.types import UserError


@dataclass(frozen=True)
class PromptPath:
    """A prompt file whose form is told from what it holds."""

    path: str  # file or folder of prompts


@dataclass(frozen=True)
class AnswerSettings:
    """How both models answer the questions of metrics. Responses that judges compare, and those shown while
    training, are sampled by `model.generation`."""

    temperature: float = 0.0  # divides the logits; 0 is greedy, as published figures of benchmarks are
    top_p: float = 1.0  # draw from the likeliest tokens that together have this probability; 1: from all
    max_new_tokens: int | None = None  # tokens of an answer, at most; null: as model.generation says

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature: must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must lie in (0, 1], got {self.top_p}")
        if self.temperature == 0 and self.top_p != 1:
            raise ValueError(f"top_p: does nothing at temperature 0, got {self.top_p}; set temperature, too")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: must be 1 or more, got {self.max_new_tokens}")


@dataclass(frozen=True)
class Evaluation:
    """What is measured besides the objective: while training, on held-out rows; after it, base against the
    trained model, for `mmalign evaluate` and the report."""

    # how many prompts are answered; null: 64 of the held-out rows', all of a prompt file's
    num_prompts: int | None = None
    batch: int = 32  # prompts that are answered together
    seed: int = 0  # of the answers: one prompt and seed, one answer
    # a scorer from rewards/, or package.module:Class; or a list, of which the first decides
    judge: Any = None
    prompts: Any = None  # a prompt file to use instead of the held-out rows' prompts
    levels: int = 8  # noise levels at which held-out pairs of a denoiser are scored; 0: none
    level_pairs: int = 32  # held-out pairs scored at those levels, at most
    metrics: Any = ()  # benchmarks from metrics/ that both models are asked, a list
    # how they answer those; comparisons sample
    generation: AnswerSettings = field(default_factory=AnswerSettings)
    grid: int | None = None  # prompts answered at every evaluation; null: 4 where pictures are made, else 0

    def __post_init__(self) -> None:
        for name in ("num_prompts", "batch", "level_pairs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")
        for name in ("levels", "grid"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 or more, got {getattr(self, name)}")

    @property
    def judges(self) -> tuple[Any, ...]:
        """The scorers, the deciding one first."""
        return self.judge if isinstance(self.judge, tuple) else () if self.judge is None else (self.judge,)


def evaluation_from(value: Any, where: str, allow_code: bool) -> Evaluation:
    """The section from plain values. Raises UserError naming the field and the rule."""
    named = ("judge", "prompts", "metrics")
    plain = {k: v for k, v in value.items() if k not in named} if isinstance(value, Mapping) else value
    built: Evaluation = build_plain(Evaluation, plain, where)
    judge, prompts, metrics = (value.get(name) if isinstance(value, Mapping) else None for name in named)
    if isinstance(judge, list):
        if not judge:
            raise UserError(f"{where}.judge: the list of judges is empty")
        scorers: Any = tuple(_judge(one, f"{where}.judge[{i}]", allow_code) for i, one in enumerate(judge))
    else:
        scorers = None if judge is None else _judge(judge, f"{where}.judge", allow_code)
    asked = None if prompts is None else prompt_file(prompts, f"{where}.prompts", allow_code)
    listed = metrics_from(metrics, f"{where}.metrics", allow_code)
    return dataclasses.replace(built, judge=scorers, prompts=asked, metrics=listed)


def metrics_from(value: Any, where: str, allow_code: bool) -> tuple[Any, ...]:
    """Benchmarks from a list of names and sections, or one of them; null: none."""
    if isinstance(value, str | Mapping):
        value = [value]
    if not isinstance(value, list | None):
        raise UserError(f"{where}: must be a list of metrics, got {value!r:.60}")
    sections = [{"name": one} if isinstance(one, str) else one for one in value or ()]
    return tuple(_metric(one, f"{where}[{place}]", allow_code) for place, one in enumerate(sections))


_OF_SHAPES = {"chair": "mmalign.shapes.metrics:Chair", "pope": "mmalign.shapes.metrics:Pope"}


def _metric(value: Any, where: str, allow_code: bool) -> Any:
    try:
        return build_named(KINDS["metrics"], value, where, allow_code)
    except UserError as error:
        if isinstance(value, Mapping) and len(value) == 1 and (own := _OF_SHAPES.get(str(value.get("name")))):
            raise UserError(f"{error}; the built-in world of shapes has {own}") from error
        raise


def _judge(value: Any, where: str, allow_code: bool) -> Any:
    value = {"name": value} if isinstance(value, str) else value
    return build_named(KINDS["judge"], value, where, allow_code)


def prompt_file(value: Any, where: str, allow_code: bool = False) -> Any:
    """A prompt file from its name and fields, or from a path alone, whose form is then told from the file."""
    tree = {"path": value} if isinstance(value, str) else value
    if isinstance(tree, Mapping) and isinstance(tree.get("path"), str) and "name" not in tree:
        kind, path = KINDS["prompts"], Path(tree["path"]).expanduser()
        if not path.exists():
            raise UserError(f"{where}.path: there is no file {tree['path']}")
        known: dict[str, Any] = {name: class_of(kind, name) for name in names(kind)}
        fitting = [name for name, cls in known.items() if cls.fits(path)]
        if len(fitting) != 1:
            raise UserError(
                f"{where}.path: cannot tell the form of {tree['path']}; add name: {', '.join(known)}"
            )
        tree = {"name": fitting[0], **tree}
    return build_named(KINDS["prompts"], tree, where, allow_code)


def evaluation_tree(section: Evaluation) -> dict[str, Any]:
    """The section as plain values; `evaluation_from` gives the same section back."""
    judges = [named_tree(KINDS["judge"], one) for one in section.judges]
    prompts = None if section.prompts is None else named_tree(KINDS["prompts"], section.prompts)
    chosen = judges if isinstance(section.judge, tuple) else judges[0] if judges else None
    plain = plain_tree(dataclasses.replace(section, judge=None, prompts=None, metrics=()))
    metrics = [named_tree(KINDS["metrics"], one) for one in section.metrics]
    return {**plain, "judge": chosen, "prompts": prompts, "metrics": metrics}


def evaluation_schema() -> dict[str, Any]:
    """JSON Schema of the section."""
    from mmalign._schema import describe, named_schema, plain_schema

    def named(section: str) -> dict[str, Any]:
        kind = KINDS[section]
        return named_schema(kind, [(name, class_of(kind, name)) for name in names(kind)])

    schema = plain_schema(Evaluation)
    judge = {"anyOf": [named("judge"), {"type": "string"}]}
    listed = {"type": "array", "items": judge, "minItems": 1}
    schema["properties"]["judge"] = {"anyOf": [judge, listed, {"type": "null"}]}
    forms = [named("prompts"), plain_schema(PromptPath), {"type": "string"}, {"type": "null"}]
    schema["properties"]["prompts"] = {"anyOf": forms}
    metric = {"anyOf": [named("metrics"), {"type": "string"}]}
    many = {"type": "array", "items": metric}
    schema["properties"]["metrics"] = {"anyOf": [metric, many, {"type": "null"}]}
    describe(schema, Evaluation)
    return schema
