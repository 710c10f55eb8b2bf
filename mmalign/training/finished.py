"""A run read back: its base model and its trained one behind two switches, and export in upstream format."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmalign import config as configs
from mmalign._yaml import parse_file
from mmalign.adapters import _users as users
from mmalign.config import RunConfig
from mmalign.training import checkpoint, lora
from mmalign.training._state import restore_tensors
from mmalign.training.console import Console
from mmalign.training.record import RunRecord
from mmalign.training.reference import model_at
from mmalign.training.setup import build_policy
from mmalign.training.world import World
from mmalign.types import Adapter, Example, PreferenceSample, Prepared, UserError

Switch = Callable[[], AbstractContextManager[nn.Module]]


@dataclass(frozen=True)
class FinishedRun:
    """A run's adapter with the trained weights in it; `base` and `tuned` yield the model to use."""

    folder: Path
    config: RunConfig
    adapter: Adapter
    step: int
    base: Switch
    tuned: Switch


def read_config(folder: Path, allow_code: bool = False) -> RunConfig:
    """The resolved config of a run folder. Raises UserError if the folder holds no run."""
    stored = folder / "config.yaml"
    if not stored.is_file():
        raise UserError(f"{folder}: holds no run (config.yaml is missing)")
    begun = RunRecord.read(folder)
    tree = parse_file(stored)
    if begun is not None and begun.started_in:
        tree = _found_again(tree, Path(begun.started_in))
    return configs.from_tree(tree, str(stored), allow_code)


_PATHS = ("path", "root", "head")
"""Fields of config sections that name files and folders."""


def _found_again(value: Any, start: Path) -> Any:
    """A config's values, in which a relative path that leads nowhere from here is taken from the folder the
    run was started in, if it leads somewhere from there."""
    if isinstance(value, list):
        return [_found_again(one, start) for one in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, one in value.items():
        if name in _PATHS and isinstance(one, str) and one and not Path(one).expanduser().exists():
            there = start / one
            found[name] = str(there) if there.exists() else one
        else:
            found[name] = _found_again(one, start)
    return found


def open_run(
    folder: Path, allow_code: bool = False, device: torch.device | None = None, exact: bool = False
) -> FinishedRun:
    """Load the base model of a run and put the newest checkpoint's weights into it.

    A base that was frozen in bfloat16 while training is so here too, unless `exact` asks for float32.
    Raises UserError for a folder without a run or without a whole checkpoint.
    """
    config = read_config(folder, allow_code)
    scan = checkpoint.latest(folder)
    if scan.found is None:
        broken = f"; {scan.warnings[0]}" if scan.warnings else ""
        raise UserError(f"{folder}: holds no checkpoint yet{broken}")
    if exact:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="fp32"))
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    adapter = build_policy(config, device)
    policy = adapter.policy
    base = _built_again(config, device) if config.lora is None else _base_switch(config, policy)
    state = checkpoint.load(scan.found)
    try:
        restore_tensors(policy, state.model)
    except ValueError as error:
        raise UserError(f"{scan.found.path}: {error}") from error
    policy.eval()
    return FinishedRun(folder, config, adapter, scan.found.step, base, _yielding(policy))


def _base_switch(config: RunConfig, policy: nn.Module) -> Switch:
    """What training started from: the model without LoRA, or with the adapter it was given."""
    if config.lora is None or config.lora.path is None:
        return lambda: _without_users(lora.switched_off(policy), policy)
    frozen = {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}
    return lambda: _without_users(lora.swapped(policy, frozen), policy)


@contextmanager
def _without_users(inner: AbstractContextManager[nn.Module], policy: nn.Module) -> Iterator[nn.Module]:
    with users.switched_off(policy), inner as module:
        yield module


def _built_again(config: RunConfig, device: torch.device) -> Switch:
    """The model as its files have it, loaded when it is first asked for and kept: whoever wants the trained
    one only never holds two."""

    @functools.cache
    def module() -> nn.Module:
        made = build_policy(config, device).policy.requires_grad_(False).eval()
        users.turn_off(made)
        return made

    @contextmanager
    def switch() -> Iterator[nn.Module]:
        yield module()

    return switch


def _yielding(module: nn.Module) -> Switch:
    @contextmanager
    def switch() -> Iterator[nn.Module]:
        yield module

    return switch


def merge(policy: nn.Module) -> None:
    """Add every LoRA update to its base weight and put the plain layers back, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(policy.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(policy.get_submodule(parent), child, module.get_base_layer())
    del policy.peft_config  # set by peft on the module it injected into; upstream saving would look for it


def export(run: FinishedRun, folder: Path, merged: bool, dtype: torch.dtype) -> float:
    """Write the trained model for the upstream library, load it back through the same loader, and return the
    largest difference of the scores of two rows between the run and what was written.

    With `merged` LoRA is folded into a whole model; without, a LoRA run writes its adapter only, in float32.
    The run itself stays as it is. Raises UserError if the folder is not empty, if `merged` or `dtype` cannot
    apply, or if a reloaded model scores differently.
    """
    _check_export(run.config, folder, merged, dtype)
    if any(p.dtype != torch.float32 for p in run.adapter.policy.parameters()):
        run = open_run(
            run.folder, True, run.adapter.device, exact=True
        )  # merge into the base as it was given
    adapter, policy, config = run.adapter, run.adapter.policy, run.config
    before = _probe(run, adapter, policy)
    if config.lora is not None and not merged:
        adapter.save(policy, folder, lora.NAME)
        model = config.model.with_head(str(folder)) if config.model.kind == "reward" else config.model
        again = _with_users(model, policy, folder).build(adapter.device, torch.float32)
        section = dataclasses.replace(config.lora, path=str(folder))
        lora.inject(again.policy, section, again.lora_targets, config.seed)
    else:
        whole = copy.deepcopy(policy)
        if merged:
            merge(whole)
        for parameter in whole.parameters():
            parameter.data = parameter.data.to(dtype)
        adapter.save(whole, folder, None)
        del whole
        model = model_at(config, str(folder), keep_dtype=False)
        again = _with_users(model, policy, folder).build(adapter.device, dtype)
    gap = float((before - _probe(run, again, again.policy)).abs().max())
    bound = 1e-4 if dtype == torch.float32 or (config.lora is not None and not merged) else 0.05
    if gap > bound * max(1.0, float(before.abs().max())):
        raise UserError(f"{folder}: the exported model scores differently by {gap:.2g}; it is not usable")
    return gap


def _with_users(model: Any, policy: nn.Module, folder: Path) -> Any:
    """The model section with the users that were written to a folder, where the policy knows any."""
    return model if users.users_of(policy) is None else model.with_users(str(folder))


def _check_export(config: RunConfig, folder: Path, merged: bool, dtype: torch.dtype) -> None:
    """Refuse a folder that is taken, and options that would do nothing."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is not an empty folder; choose another for the export")
    if merged and config.lora is None:
        raise UserError("export --merge: this run trained all weights and has no LoRA to merge; leave it out")
    if config.lora is not None and not merged and dtype != torch.float32:
        name = str(dtype).removeprefix("torch.")
        raise UserError(
            f"export --dtype={name}: LoRA weights are written in float32; add --merge or leave it out"
        )


@torch.no_grad()
def _probe(run: FinishedRun, adapter: Adapter, model: nn.Module) -> torch.Tensor:
    """Scores of the first two samples' policy roles."""
    from mmalign.training.rows import few_samples

    config = run.config
    if config.online is not None or config.objective.rollout is not None:
        roles, prepared = ("completion",), _own_answers(run)
    else:
        roles = config.objective.roles["policy"]
        prepared = [item.prepared for item in few_samples(config, adapter, 2)]
    batch = adapter.collate(adapter.encode(prepared), roles)
    draw = adapter.draw(batch, list(range(len(prepared))))
    return adapter.logprobs(model.eval(), batch, draw, frozenset()).total()


def _own_answers(run: FinishedRun) -> list[Prepared]:
    """Rows of what the trained model answers to two prompts, for runs whose data has prompts alone."""
    from mmalign.data._prompts import decode_prompts
    from mmalign.training.rows import load_data

    world = World(0, 1, run.adapter.device)
    data = load_data(run.config, world, Console(world, progress=False, quiet=True))
    given = [(one.id, one.examples["prompt"][0].prompt) for one in data.pools[0].samples[:2]]
    asked = decode_prompts(given, run.adapter.frames)
    answers = run.adapter.generate(run.adapter.policy, [turns for _, turns in asked], range(len(asked)))
    samples = [
        PreferenceSample(name, {"completion": (Example(turns, (part,)),)})
        for (name, turns), part in zip(asked, answers, strict=True)
    ]
    return [run.adapter.prepare(sample, ("completion",)) for sample in samples]
