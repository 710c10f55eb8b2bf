"""What is refused before a weight is loaded: combinations that cannot work, and folders that are taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmalign._names import KINDS, NamedKind, name_of
from mmalign.catalogue import lacking
from mmalign.config import FREE, FREE_TRAIN, RunConfig, comparable, from_tree, identity
from mmalign.data._views import unseen
from mmalign.objectives._sum import WeightedSum
from mmalign.rewards._reads import made_by
from mmalign.training._held_prompts import check_eval_every
from mmalign.training._online_modes import check_online
from mmalign.training.console import WARNING
from mmalign.training.judged import check_judges
from mmalign.training.masks import check_masks
from mmalign.training.trackers import check_trackers
from mmalign.training.unread import check_unread
from mmalign.types import NEEDS, Objective, PathObjective, PixelReward, UserError


def check_config(config: RunConfig, processes: int = 1) -> list[str]:
    """Raise UserError if the parts of a config do not fit together. Returns notes worth printing."""
    _check_needs(config)
    _check_views(config)
    check_trackers(config.log.trackers)
    reference = choose(config)
    notes = [] if reference == "none" else [f"reference: {reference}"]
    train, objective = config.train, config.objective
    if train.batch < processes:
        raise UserError(f"train.batch: {train.batch} samples cannot be shared by {processes} processes")
    if train.micro_batch is not None and train.micro_batch > train.batch:
        raise UserError(f"train.micro_batch: {train.micro_batch} is more than train.batch, {train.batch}")
    if train.num_draws is not None and config.model.kind in ("exact", "reward"):
        raise UserError("train.draws=fixed:K: scoring with an exact model draws nothing; remove it")
    if {"segments", "prediction"} <= needed_of(config):
        raise UserError(
            "transforms: one of them needs whole predictions, which are not kept by segment; remove it, or "
            "use an objective without segments"
        )
    whole = sorted(needed_of(config) & {"distribution", "prediction", "sampler", "written"})
    if whole and uses_chunks(config, processes):
        raise UserError(
            f"train.backward: an objective or transform that needs {NEEDS[whole[0]]} cannot be chunked; "
            f"use direct and train.micro_batch={-(-train.batch // processes)}"
        )
    if whole and reference == "cached":
        raise UserError(f"reference.name=cached: keeps scores, and this run needs {NEEDS[whole[0]]}")
    if "distribution" in needed_of(config):
        _check_distributions(config)
    if train.backward == "direct" and _coupled(config) and _splits(config, processes):
        square = ", model.buckets=square" if _of_several_shapes(config) else ""
        raise UserError(
            "train.backward=direct: this run couples the samples of a step, which must then be scored "
            f"in one forward; set train.micro_batch={-(-train.batch // processes)}{square} or use auto"
        )
    check_unread(config)
    _check_paths(config, processes)
    notes += check_online(config)
    check_masks(config, fields_of(config))
    _check_written(config)
    _check_flip(config)
    _check_reward(config)
    check_judges(config, made_by(config.model.kind))
    if reference == "cached" and config.cache is None and processes > 1:
        raise UserError("cache: null: several processes share a cached reference through a folder; name one")
    kept_back = config.heldout is not None or any(getattr(s, "heldout", 0) for _, s in config.data)
    asks = bool(config.evaluation.grid and config.evaluation.prompts)  # answers need no rows
    if train.eval_every is not None and not kept_back and not asks:
        raise UserError("train.eval_every: there are no held-out rows; add section heldout or data.heldout")
    check_eval_every(config)
    if config.lora is None and getattr(config.model, "dtype", None) is not None:
        raise UserError(
            "model.dtype: the type of frozen weights, but without section lora all train, in float32"
        )
    for transform in config.transforms:
        if not set(transform.roles) <= set(objective.roles["policy"]):
            name = name_of(KINDS["transforms"], type(transform))
            raise UserError(
                f"transforms: {name} changes {' and '.join(transform.roles)}, which are not scored"
            )
    if "tie" in objective.fields and any(getattr(s, "ties", "keep") == "drop" for _, s in config.data):
        raise UserError("data.ties=drop: leaves out the ties that the objective is to learn from; set keep")
    if config.heldout is not None and any(getattr(source, "heldout", 0) for _, source in config.data):
        raise UserError("heldout: give either this section or data.heldout, not both")
    terms = [term for _, _, term in objective.terms] if isinstance(objective, WeightedSum) else [objective]
    for term in terms:
        name = "tau" if getattr(term, "beta", None) is None else "beta"
        beta = getattr(term, name, None)  # an objective of the user's own may have none
        if config.model.kind == "surrogate" and term.surrogate_beta and beta is not None and beta < 10:
            notes.append(
                f"{WARNING}objective.{name} {beta} is of the size used for text; on diffusion errors "
                f"published runs use about {term.surrogate_beta:g}{term.surrogate_advice}, and this one will "
                "hardly move"
            )
    return notes


def _check_distributions(config: RunConfig) -> None:
    """What is read from distributions is not changed by transforms of tokens, nor joined over forwards."""
    for transform in config.transforms:
        if {"units", "tokens"} & transform.needs:
            name = name_of(KINDS["transforms"], type(transform))
            raise UserError(
                f"transforms: {name} changes scores of tokens, but not the distributions that objective "
                f"{_name(KINDS['objective'], config.objective)} reads; remove it"
            )
    if _coupled(config):
        raise UserError(
            f"objective: one part needs {NEEDS['distribution']}, which are not kept over a step; another "
            "couples its samples: leave one out"
        )


def _check_flip(config: RunConfig) -> None:
    """Swapping two answers leaves no order of three, and labels that compare the two stay true."""
    if not any(getattr(source, "flip", 0) for _, source in config.data):
        return
    if {"chosen", "rejected", "bdhs"} <= set(config.objective.roles["policy"]):
        raise UserError(
            "data.flip: swaps two answers, and objective bdhs compares three; remove it, or set "
            "objective.gamma: 0 for rows that have no rejected answer of their own"
        )
    told = {
        "margin": "says how far the chosen side is ahead, which is below 0 in pairs with swapped sides",
        "segments": "turns its sign with the sides, so that no label would be wrong",
    }
    name = _name(KINDS["objective"], config.objective)
    for label, why in told.items():
        if label in fields_of(config):
            raise UserError(
                f"data.flip: the label {label}, which objective {name} reads, {why}; remove data.flip, or "
                "train an objective without that label"
            )


def _check_written(config: RunConfig) -> None:
    """A model that writes critiques is trained to, and no other is; its critiques are not joined over
    forwards."""
    writes = getattr(config.model, "critiques", None)  # only a reward head has the field
    name, wanted = _name(KINDS["objective"], config.objective), "written" in needed_of(config)
    if writes is not None and writes != wanted:
        rule = "it trains on critiques" if wanted else "it trains on none"
        raise UserError(
            f"model.critiques: is {str(writes).lower()} under objective {name}, and {rule}; set {not writes}"
        )
    if wanted and _coupled(config):
        raise UserError(
            f"objective: one part needs {NEEDS['written']}, which is not kept over a step; another couples "
            "its samples: leave one out"
        )


def _check_paths(config: RunConfig, processes: int) -> None:
    """A deferred gradient is of one sample of one process."""
    train = config.train
    if train.backward != "deferred":
        return
    if not isinstance(config.objective, PathObjective):
        raise UserError("train.backward=deferred: only for an objective on the steps of a path; use auto")
    demands = {
        "train.micro_batch": (train.micro_batch, 1),
        "processes": (processes, 1),
        "transforms": (len(config.transforms), 0),
        "sources that are scored": (len(config.objective.roles), 1),
    }
    for name, (found, needed) in demands.items():
        if found != needed:
            raise UserError(f"train.backward=deferred: needs {name} {needed}, got {found}; or use direct")


def _check_reward(config: RunConfig) -> None:
    """A reward is there where the objective trains on one, and gradients flow through it."""
    reward = config.reward
    if config.objective.rollout is None:
        if reward is not None:
            raise UserError("reward: this objective trains on no reward; remove the section")
        return
    if reward is None:
        raise UserError("reward: this objective trains on one; add reward: {name: ...}")
    if getattr(reward, "batch_coupled", False):  # an attribute that few rewards have, as judges have `costs`
        name = name_of(KINDS["reward"], type(reward))
        raise UserError(
            f"reward {name}: scores depend on what else is in the batch, and so would the run on micro_batch "
            "and processes; give it a fixed common direction (common)"
        )
    if not isinstance(reward, PixelReward):
        name = name_of(KINDS["reward"], type(reward))
        raise UserError(f"reward: no gradient flows through {name}; it has no reward(pixels, captions)")


def choose(config: RunConfig) -> str:
    """The reference this run uses, `auto` resolved. Raises UserError where the config contradicts itself."""
    wanted, lora_section = config.reference.name, config.lora
    needed = [source for source in config.objective.roles if source != "policy"]
    inversion = config.objective.inversion
    if inversion is not None and inversion.source not in ("policy", *needed):
        needed.append(inversion.source)
    unknown = [source for source in needed if source != "reference"]
    if unknown:
        raise UserError(
            f"objective: scores a source called {unknown[0]}; a config can provide only reference"
        )
    if not needed:
        if wanted not in ("auto", "none"):
            raise UserError(f"reference.name={wanted}: this objective takes no reference; remove the section")
        return "none"
    if wanted == "none":
        raise UserError("reference.name=none: this objective takes log-ratios and needs a reference")
    if wanted in ("lora_off", "initial_adapter") and lora_section is None:
        raise UserError(f"reference.name={wanted}: there is no LoRA to switch; add section lora or use copy")
    if wanted == "initial_adapter" and lora_section is not None and lora_section.path is None:
        raise UserError(
            "reference.name=initial_adapter: give lora.path, the adapter that training starts from"
        )
    if wanted == "cached" and inversion is not None:
        raise UserError("reference.name=cached: keeps scores of random noise, and this objective inverts")
    if wanted == "cached" and config.views.redraw == "epoch" and config.objective.views:
        raise UserError("reference.name=cached: views change every epoch; set views.redraw=once")
    if wanted == "cached" and config.model.kind == "surrogate" and config.train.num_draws is None:
        raise UserError("reference.name=cached: a cached reference on diffusion needs train.draws=fixed:K")
    if wanted != "auto":
        return wanted
    if lora_section is None:
        return "copy"
    return "lora_off" if lora_section.path is None else "initial_adapter"


def _check_needs(config: RunConfig) -> None:
    model, objective = config.model, config.objective
    terms = [term for _, _, term in objective.terms] if isinstance(objective, WeightedSum) else []
    wanted = [(part, part.needs) for part in (objective, *terms, *config.transforms)]
    for part, needs in wanted:
        unknown = sorted(needs - NEEDS.keys())
        if unknown:
            raise UserError(
                f"{type(part).__name__}: needs the unknown {unknown[0]!r}; known: {', '.join(NEEDS)}"
            )
        missing = lacking(needs, model.offers)
        if missing:
            word = "objective" if isinstance(part, Objective) else "transforms"
            adapter = name_of(KINDS["model"], type(model))
            reason = refusal(missing, adapter, model.offers)
            raise UserError(f"{word} {_name(KINDS[word], part)} {reason}")
    if model.kind == "reward" and len(model.aspects) > 1 and "aspects" not in objective.needs:
        raise UserError(
            f"model.aspects: {len(model.aspects)} are named, but objective "
            f"{_name(KINDS['objective'], objective)} trains one score; set aspects: [score]"
        )


def _check_views(config: RunConfig) -> None:
    """A change of media that the model does not read would leave the view as it was."""
    if kinds := unseen(config.objective.views, config.model.media):
        name = _name(KINDS["objective"], config.objective)
        adapter = name_of(KINDS["model"], type(config.model))
        raise UserError(
            f"objective {name} changes the {kinds} of a prompt, and adapter {adapter} reads none there; "
            "use model.adapter vlm (pictures) or video_lm (clips too)"
        )


def _name(kind: NamedKind, part: object) -> str:
    return "sum" if isinstance(part, WeightedSum) else name_of(kind, type(part))


def refusal(missing: list[str], adapter: str, offers: frozenset[str]) -> str:
    """Why something cannot run on an adapter."""
    reasons = "; ".join(f"{name} ({NEEDS[name]})" for name in missing)
    return f"needs {reasons}; adapter {adapter} offers {', '.join(sorted(offers))}"


def needed_of(config: RunConfig) -> frozenset[str]:
    """What the objective and its transforms ask of the adapter."""
    needs: frozenset[str] = config.objective.needs
    return needs.union(*(transform.needs for transform in config.transforms))


def fields_of(config: RunConfig) -> tuple[str, ...]:
    """Labels that every row must carry: for the objective, and for the transforms before it."""
    parts = (config.objective, *config.transforms)
    return tuple(dict.fromkeys(name for part in parts for name in part.fields))


def _coupled(config: RunConfig) -> bool:
    """True if a sample's loss depends on the other samples of the step."""
    objective: Objective = config.objective
    return objective.batch_coupled or any(transform.batch_coupled for transform in config.transforms)


def _splits(config: RunConfig, processes: int) -> bool:
    """True if a process may score its share of a step in more than one forward."""
    micro, share = config.train.micro_batch, -(-config.train.batch // processes)
    return (micro is not None and micro < share) or (share > 1 and _of_several_shapes(config))


def _of_several_shapes(config: RunConfig) -> bool:
    """True if samples may differ in size, and so may have to be scored apart."""
    return getattr(config.model, "buckets", "square") != "square"


def uses_chunks(config: RunConfig, processes: int) -> bool:
    """True if gradients are taken through the scores instead of one graph."""
    if config.train.backward == "auto":
        return _coupled(config) and _splits(config, processes)
    return config.train.backward == "chunked"


@runtime_checkable
class _Glanced(Protocol):
    def glance(self) -> None: ...


def glance_at(model: Any) -> None:
    """Look at the files that a section `model` names as far as that costs nothing, so that a wrong path is
    told before any row is read. Raises UserError; an adapter of the user's own need not know how."""
    if isinstance(model, _Glanced):
        model.glance()


def check_output(config: RunConfig) -> None:
    """Raise UserError unless the output folder is absent, empty, or holds a run of this very config."""
    folder = Path(config.output)
    if not config.output.strip():
        raise UserError("output: must name a folder, got an empty string")
    for name, place in (("output", folder), ("cache", config.cache and Path(config.cache))):
        blocked = place and next((p for p in (place, *place.parents) if p.exists() and not p.is_dir()), None)
        if blocked:
            raise UserError(f"{name}: {blocked} is a file; choose a folder")
    # left by a run that ended before its first step, samples of its first round among them
    early = (".lock", ".config.yaml.tmp", "rounds")
    if not folder.exists() or all(p.name in early for p in folder.iterdir()):
        return
    stored = folder / "config.yaml"
    # a run writes one of these beside its config: without them it is the user's own
    if not stored.is_file() or not any((folder / name).exists() for name in ("run.json", ".lock")):
        raise UserError(f"output: {folder} is not empty and holds no run; choose another folder")
    from mmalign._yaml import parse_file

    before = from_tree(parse_file(stored), str(stored), allow_code=True)
    if identity(before) != identity(config):
        changed = _first_difference(comparable(before), comparable(config))
        raise UserError(
            f"output: {folder} holds a run of another config ({changed}); choose another folder. When a run "
            f"goes on, only {', '.join(FREE)} and train.{{{', '.join(FREE_TRAIN)}}} may change"
        )


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> str:
    """The first place where two trees are written differently, and how."""
    for key in [*old, *(k for k in new if k not in old)]:
        before, after = old.get(key), new.get(key)
        if json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            return _first_difference(before, after, f"{path}{key}.")
        return f"{path}{key} was {before!r}, is {after!r}"
    raise AssertionError("trees of different identity differ")
