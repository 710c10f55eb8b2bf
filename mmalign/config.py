"""Configuration: a YAML file plus `section.field=value` overrides -> one frozen `RunConfig`.

A section with a name ("objective: {name: dpo}") is filled by the one public dataclass of the file of that
name (`objectives/dpo.py`), or by `package.module:Class`. Reading YAML is in `_yaml.py`, names in `_names.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmalign._build import build_named, build_plain, named_tree, plain_tree, refuse_unknown
from mmalign._evaluation import Evaluation, evaluation_from, evaluation_schema, evaluation_tree
from mmalign._evaluation import prompt_file as prompt_file
from mmalign._names import KINDS, class_of, name_of
from mmalign._online import Online, online_from, online_schema, online_tree
from mmalign._yaml import apply_overrides, parse_file, telling
from mmalign.objectives._sum import WeightedSum
from mmalign.types import UserError


def _positive(name: str, value: float | None, zero: bool = False) -> None:
    if value is not None and (value < 0 or (value == 0 and not zero)):
        raise ValueError(f"{name}: must be {'0 or more' if zero else 'above 0'}, got {value}")


@dataclass(frozen=True)
class Views:
    """How views (roles made in memory) are drawn."""

    redraw: Literal["epoch", "once"] = "epoch"  # `once` keeps a view the same in every epoch


@dataclass(frozen=True)
class Reference:
    """The frozen model that log-ratios are taken against. `auto` picks, and says which, by what trains."""

    # auto: by what trains; lora_off: the policy without LoRA; initial_adapter: with its first LoRA weights;
    # copy: of its first weights; path: another model; ema: a running mean of the policy; cached: scores taken
    # once, beforehand
    name: Literal["auto", "none", "lora_off", "initial_adapter", "copy", "path", "ema", "cached"] = "auto"
    path: str | None = None  # folder or hub id of another model of the same family, for `path` and `cached`
    # of `ema`, which follows the policy: share of itself it keeps at an update; 0 copies
    decay: float | None = None
    every: int | None = None  # steps between two updates of `ema`; null: 1

    def __post_init__(self) -> None:
        if self.name == "path" and not self.path:
            raise ValueError("path: reference.name=path needs a folder or hub id")
        if self.path and self.name not in ("path", "cached"):
            raise ValueError(f"path: only read with name path or cached, got name {self.name}")
        if self.name == "ema" and (self.decay is None or not 0 <= self.decay < 1):
            raise ValueError(f"decay: reference.name=ema needs one in [0, 1), got {self.decay}")
        if self.name != "ema" and not self.decay is self.every is None:
            raise ValueError("decay and every: only read with name ema")
        _positive("every", self.every)


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) on the policy; without this section all its weights train."""

    rank: int = 8  # of the two small matrices
    alpha: float | None = None  # scaling is alpha / rank; null means alpha = rank
    dropout: float = 0.0  # of what goes into them, in training
    targets: tuple[str, ...] | str | None = (
        None  # module name endings or a regular expression; null: family default
    )
    path: str | None = None  # start from this saved adapter
    # of the first matrix: peft's usual, or normal numbers; the second is 0
    init: Literal["default", "gaussian"] = "default"

    def __post_init__(self) -> None:
        _positive("rank", self.rank)
        _positive("alpha", self.alpha)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must lie in [0, 1), got {self.dropout}")
        try:
            re.compile(self.targets if isinstance(self.targets, str) else "")
        except re.error as error:
            raise ValueError(f"targets: no regular expression ({error}), got {self.targets!r}") from error


@dataclass(frozen=True)
class Train:
    """Length, size and optimizer of a run. Schedules count absolute steps; length is only a stopping rule."""

    steps: int | None = None  # optimizer steps in all; give this or epochs
    epochs: float | None = None  # times through the data; give this or steps
    batch: int = 16  # samples per optimizer step over all processes
    micro_batch: int | None = None  # samples per forward of one process; null: all of a step at once
    lr: float = 1e-5  # learning rate of AdamW, after warm-up
    weight_decay: float = 0.0  # of AdamW
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    eps: float = 1e-8  # of AdamW
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of the learning rate after warm-up
    schedule_steps: int | None = None  # step at which linear and cosine reach 0
    warmup_steps: int = 0  # steps in which the learning rate rises from 0
    clip: float | None = 1.0  # gradient norm, to which larger ones are scaled down; null: none is
    # bf16: forwards in bfloat16 where torch's autocast does so, weights in float32
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = False  # recompute activations in backward, which saves memory and takes time
    dropout: bool = False  # leave the model's own dropout on
    draws: str = "fresh"  # fresh noise at every visit; or fixed:K, K noise draws per sample used in turn
    # deferred: steps of a path a few at a time, in memory that does not grow with their number
    backward: Literal["auto", "direct", "chunked", "deferred"] = "auto"
    # steps of a path per forward; null: 1 with deferred, all with chunked
    step_chunk: int | None = None
    save_every: int | None = None  # steps between checkpoints; null: only at the end
    keep: int = 2  # checkpoints kept
    eval_every: int | None = None  # steps between evaluations; null: at the start and the end
    max_bad_steps: int = 5  # steps with NaN or inf in a row before a run stops
    workers: int = 0  # loader processes; 0: rows are read where training runs
    timeout_s: float = 120.0  # seconds to wait for a loader worker

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps: give exactly one of steps and epochs")
        for name in ("steps", "epochs", "batch", "micro_batch", "lr", "eps", "schedule_steps", "clip"):
            _positive(name, getattr(self, name))
        if self.step_chunk is not None and self.backward not in ("chunked", "deferred"):
            raise ValueError("step_chunk: only read with backward chunked or deferred")
        _positive("step_chunk", self.step_chunk)
        for name in ("save_every", "keep", "eval_every", "max_bad_steps", "timeout_s"):
            _positive(name, getattr(self, name))
        for name in ("weight_decay", "warmup_steps", "workers"):
            _positive(name, getattr(self, name), zero=True)
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas: both must lie in [0, 1), got {list(self.betas)}")
        if self.schedule != "constant" and self.schedule_steps is None:
            raise ValueError(f"schedule_steps: schedule {self.schedule} needs it (absolute steps)")
        if self.schedule_steps is not None and self.schedule_steps <= self.warmup_steps:
            raise ValueError(f"schedule_steps: must be above warmup_steps, got {self.schedule_steps}")
        if self.schedule == "constant" and self.schedule_steps is not None:
            raise ValueError("schedule_steps: not read by schedule constant; remove it or choose a schedule")
        _ = self.num_draws

    @property
    def num_draws(self) -> int | None:
        """K of `draws: fixed:K`; None for fresh draws."""
        if self.draws == "fresh":
            return None
        head, _, count = self.draws.partition(":")
        if head != "fixed" or not count.isdecimal() or int(count) == 0:
            raise ValueError(f"draws: must be fresh or fixed:K with K above 0, got {self.draws!r}")
        return int(count)


@dataclass(frozen=True)
class Log:
    """What is printed and how often, and who else is told; changes nothing in the run."""

    every: int = 10  # steps between lines in metrics.jsonl
    progress: bool = True  # show a progress bar
    trackers: tuple[str, ...] = ()  # also get these lines: tensorboard, wandb, any name accelerate knows

    def __post_init__(self) -> None:
        _positive("every", self.every)
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers: each name once, got {list(self.trackers)}")


@dataclass(frozen=True)
class RunConfig:
    """A whole run; sections that carry a name hold an instance of the dataclass it stands for."""

    model: Any  # what is trained, an adapter with its fields
    # what is trained on, a source with its fields; or a list of them, each with a weight
    data: tuple[tuple[float | None, Any], ...]
    objective: Any  # the loss, by name with its fields; or a list of them, each with a weight
    train: Train  # length, size and optimizer of the run
    heldout: Any = None  # a source for evaluation alone; null: rows that `data.heldout` keeps back, if any
    transforms: tuple[Any, ...] = ()  # what changes scores before the objective sees them, a list
    reward: Any = None  # what an objective on sampled media trains on, a scorer from rewards/
    online: Online | None = None  # samples are made in rounds, by the policy itself
    views: Views = field(default_factory=Views)  # how views, roles made in memory, are drawn
    # the frozen model that log-ratios are taken against
    reference: Reference = field(default_factory=Reference)
    lora: Lora | None = None  # low-rank adapters in place of all weights; null: all weights train
    evaluation: Evaluation = field(default_factory=Evaluation)  # what is measured besides the objective
    log: Log = field(default_factory=Log)  # what is printed, and who else is told
    cache: str | None = "runs/cache"  # encoded rows and reference scores; null keeps them in memory
    output: str = "runs/run"  # folder of the run; new, empty, or of this very run, which then goes on
    seed: int = 0  # of all that is drawn


_PLAIN = {"views": Views, "reference": Reference, "lora": Lora, "train": Train, "log": Log}
_SCALARS: dict[str, Any] = {"cache": str | None, "output": str, "seed": int}
_SECTIONS = [f.name for f in dataclasses.fields(RunConfig)]


def load(
    path: str | Path, overrides: Sequence[str] = (), allow_code: bool = False, notes: list[str] | None = None
) -> RunConfig:
    """Read a config file and apply `section.field=value` overrides in order.

    Raises UserError with one line naming the file or override, the key and the rule. Dotted names outside
    mmalign are imported only with `allow_code`. What an override dropped is said on stderr, or added to
    `notes` for the caller to say later.
    """
    said: list[str] = [] if notes is None else notes
    tree = apply_overrides(parse_file(Path(path)), overrides, said)
    with telling(said):
        config = from_tree(tree, str(path), allow_code)
    if notes is None:
        for line in said:
            print(line, file=sys.stderr)  # stdout may be a config that is being written
    return config


def from_tree(tree: Mapping[str, Any], where: str, allow_code: bool = False) -> RunConfig:
    """Build and check a RunConfig from plain mappings, lists and scalars."""
    if "builder" in tree and "objective" not in tree:
        raise UserError(f"{where}: has a builder and no objective: a build's config, for `mmalign build`")
    refuse_unknown(tree, _SECTIONS, where)
    for name in ("model", "data", "objective", "train"):
        if name not in tree:
            raise UserError(f"{where}: section {name} is missing")
    sections: dict[str, Any] = {}
    for name, value in tree.items():
        here = f"{where}: {name}"
        if value is None:
            if name in ("lora", "heldout", "reward", "online", "cache"):
                sections[name] = None
            elif name in ("model", "data", "objective", "train"):
                raise UserError(f"{here}: the section is empty")
            continue
        if name in _PLAIN:
            sections[name] = build_plain(_PLAIN[name], value, here)
        elif name in _SCALARS:
            sections[name] = build_plain(_SCALARS[name], value, here)
        elif name == "evaluation":
            sections[name] = evaluation_from(value, here, allow_code)
        elif name == "online":
            sections[name] = online_from(value, here, allow_code)
        elif name in ("model", "heldout", "reward"):
            sections[name] = build_named(KINDS[name], value, here, allow_code)
        elif name == "data":
            sections[name] = _mixture(value, here, allow_code)
        elif name == "objective":
            sections[name] = _objective(value, here, allow_code)
        else:
            listed = value if isinstance(value, list) else [value]
            sections[name] = tuple(build_named(KINDS[name], v, here, allow_code) for v in listed)
    return RunConfig(**sections)


def _mixture(value: Any, where: str, allow_code: bool) -> tuple[tuple[float | None, Any], ...]:
    if not isinstance(value, list):
        return ((None, build_named(KINDS["data"], value, where, allow_code)),)
    if not value:
        raise UserError(f"{where}: the list of sources is empty")
    parts = [_weighted(KINDS["data"], v, f"{where}[{i}]", allow_code) for i, v in enumerate(value)]
    stated = [isinstance(v, Mapping) and "weight" in v for v in value]
    return tuple((w if given else None, one) for given, (w, one) in zip(stated, parts, strict=True))


def _objective(value: Any, where: str, allow_code: bool) -> Any:
    if not isinstance(value, list):
        return build_named(KINDS["objective"], value, where, allow_code)
    if not value:
        raise UserError(f"{where}: the list of objectives is empty")
    weighted = [_weighted(KINDS["objective"], v, f"{where}[{i}]", allow_code) for i, v in enumerate(value)]
    names = [name_of(KINDS["objective"], type(term)) for _, term in weighted]
    labels = [n if names.count(n) == 1 else f"{n}{i}" for i, n in enumerate(names)]
    return WeightedSum(tuple((label, w, term) for label, (w, term) in zip(labels, weighted, strict=True)))


def _weighted(kind: Any, value: Any, where: str, allow_code: bool) -> tuple[float, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: must be a mapping, got {value!r}")
    weight = build_plain(float, value.get("weight", 1.0), f"{where}.weight")
    if weight <= 0:
        raise UserError(f"{where}.weight: must be above 0, got {weight}")
    return weight, build_named(kind, {k: v for k, v in value.items() if k != "weight"}, where, allow_code)


# ---------------------------------------------------------------- back to plain values


def to_tree(config: RunConfig) -> dict[str, Any]:
    """The resolved config as plain values, defaults written out; `from_tree` gives the same config back."""
    tree: dict[str, Any] = {}
    for name in _SECTIONS:
        value = getattr(config, name)
        if name == "data":
            single = len(value) == 1 and value[0][0] is None
            listed = [
                {**named_tree(KINDS["data"], source), **({} if w is None else {"weight": w})}
                for w, source in value
            ]
            tree[name] = named_tree(KINDS["data"], value[0][1]) if single else listed
        elif name == "objective" and isinstance(value, WeightedSum):
            tree[name] = [{**named_tree(KINDS["objective"], term), "weight": w} for _, w, term in value.terms]
        elif name == "transforms":
            tree[name] = [named_tree(KINDS[name], v) for v in value]
        elif name in ("model", "heldout", "objective", "reward"):
            tree[name] = None if value is None else named_tree(KINDS[name], value)
        elif name == "evaluation":
            tree[name] = evaluation_tree(value)
        elif name == "online":
            tree[name] = online_tree(value)
        else:
            tree[name] = plain_tree(value)
    return tree


def dump(config: RunConfig) -> str:
    """The resolved config as YAML text."""
    import yaml

    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


FREE = ("output", "log", "cache", "evaluation")
"""Sections that may differ between two parts of one run."""
FREE_TRAIN = ("steps", "epochs", "save_every", "keep", "eval_every", "workers", "timeout_s")
"""Fields of section train that may differ between two parts of one run."""
FREE_FRAMES = ("cache", "cache_gb")
"""Fields of model.frames that may."""


def comparable(config: RunConfig) -> dict[str, Any]:
    """What makes a run the same run, as plain values: everything but its length, its folder, how often it
    saves, evaluates and logs, and how its loader works."""
    tree = to_tree(config)
    tree["train"] = {name: value for name, value in tree["train"].items() if name not in FREE_TRAIN}
    tree["model"] = without_frame_cache(tree["model"])
    return {name: section for name, section in tree.items() if name not in FREE}


def without_frame_cache(model: dict[str, Any]) -> dict[str, Any]:
    """The model's section as plain values, without where chosen frames are kept: they are the same ones."""
    frames = model.get("frames")
    if not isinstance(frames, dict):
        return model
    return model | {"frames": {name: value for name, value in frames.items() if name not in FREE_FRAMES}}


def identity(config: RunConfig) -> str:
    """Hash of what makes a run the same run."""
    return hashlib.sha256(json.dumps(comparable(config), sort_keys=True).encode()).hexdigest()[:16]


def schema() -> dict[str, Any]:
    """JSON Schema of a config file, for editors: every shipped name with its fields."""
    from mmalign._fields import meanings
    from mmalign._names import names
    from mmalign._schema import named_schema, or_null, plain_schema

    def named(section: str, weighted: bool = False) -> dict[str, Any]:
        kind = KINDS[section]
        return named_schema(kind, [(name, class_of(kind, name)) for name in names(kind)], weighted)

    properties: dict[str, Any] = {name: plain_schema(cls) for name, cls in _PLAIN.items()}
    properties |= {name: plain_schema(kind) for name, kind in _SCALARS.items()}
    properties["lora"] = or_null(properties["lora"])
    properties["model"], properties["heldout"] = named("model"), or_null(named("heldout"))
    properties["reward"] = or_null(named("reward"))
    for section in ("data", "objective", "transforms"):
        many = {"type": "array", "items": named(section, weighted=section != "transforms")}
        properties[section] = {"anyOf": [named(section), many]}
    properties["evaluation"], properties["online"] = evaluation_schema(), online_schema()
    for name, said in meanings(RunConfig).items():
        properties[name].setdefault("description", said)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mmalign run",
        "type": "object",
        "properties": properties,
        "required": ["model", "data", "objective", "train"],
        "additionalProperties": False,
    }
