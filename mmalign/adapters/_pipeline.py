"""Diffusion pipelines on disk: strict loading, and whether the components fit each other.

Upstream loaders fill weights that a file lacks with random numbers and only log it; here that is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.utils import logging as diffusers_logging
from torch import nn

from mmalign.adapters._families import Family, family_of
from mmalign.adapters._loading import (
    check_weights,
    glance_at,
    load_tokenizer,
    read_json,
    readable_errors,
    refuse_misfits,
    resolve_folder,
)
from mmalign.adapters._noise import Schedule
from mmalign.types import UserError

_STEM = "diffusion_pytorch_model"  # file name of diffusers' weights
_VP_PREDICTIONS = ("epsilon", "v_prediction", "sample")
# samplers of diffusers that a pipeline may be published with: of a noise schedule, and of a flow
_VP_SCHEDULERS = tuple(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep"),
        *("DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete"),
        *("HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM"),
        *("SASolver", "TCD", "UniPCMultistep"),
    )
)
_FLOW_SOLVERS = tuple(
    f"{name}Scheduler"
    for name in ("DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "SASolver", "UniPCMultistep")
)


@dataclass(frozen=True)
class Loading:
    """Weight types of a pipeline's parts, and changes of its noise levels. The autoencoder stays in float32:
    some overflow in half precision."""

    denoiser: torch.dtype
    encoders: torch.dtype = torch.float32
    zero_terminal_snr: bool = False
    shift: float | None = None  # of a flow's noise levels in training; sampling keeps the pipeline's own


@dataclass(frozen=True)
class Parts:
    """A loaded pipeline with what the adapter needs beside it."""

    family: Family
    pipeline: Any  # of the family's class, on the CPU
    folder: Path  # where it was loaded from
    index: Mapping[str, Any]  # its model_index.json
    scheduler_config: Mapping[str, Any]  # as saved
    trained: Any  # upstream's scheduler over all noise levels; the pipeline holds the one that samples
    extras: tuple[str, ...]  # component folders that training does not use, such as a safety checker

    @property
    def denoiser(self) -> Any:
        """The network that trains."""
        return self.pipeline.components[self.family.denoiser]

    @property
    def encoders(self) -> list[Any]:
        """The text encoders that are there, in the family's order."""
        found = [self.pipeline.components[name] for name in self.family.encoders]
        return [one for one in found if one is not None]

    @property
    def tokenizers(self) -> list[Any]:
        """Their tokenizers."""
        found = [self.pipeline.components[name] for name in self.family.tokenizers]
        return [one for one in found if one is not None]

    @property
    def zeros_for_empty(self) -> bool:
        """True if the pipeline was trained with zeros in place of the empty caption's states."""
        return self.family.zeros_for_empty(self.index)

    def schedule(self, device: torch.device) -> Schedule:
        """The noise levels it was trained on."""
        if self.family.flow:
            return Schedule.of_flow(self.trained.sigmas, device)
        return Schedule.of(self.trained.alphas_cumprod, self.trained.config.prediction_type, device)


def load_parts(path: str, revision: str | None, variant: str | None, how: Loading) -> Parts:
    """Load a pipeline folder or hub id; raises UserError naming the component that does not fit."""
    folder = resolve_folder(path, revision, _wanted_files(variant))
    index = _read_index(folder)
    family = family_of(folder, index)
    classes = _check_components(folder, index, family)
    modules: dict[str, Any] = {
        name: _load_module(folder / name, cls, variant, how, name == family.denoiser)
        for name, cls in classes.items()
    }
    tokenizers = {
        name: load_tokenizer(folder / name, cls)
        for name, cls in family.tokenizers.items()
        if _present(index, name)
    }
    config = _read_scheduler(folder, index, family)
    family.check(folder, {**modules, **tokenizers})
    _check_vocabularies(folder, modules, tokenizers)
    with readable_errors(f"{folder}/scheduler"):
        sampler, trained = _schedulers(family, config, how)
    flag = {family.zeros_flag: family.zeros_for_empty(index)} if family.zeros_flag else {}
    absent = dict.fromkeys(name for name in family.optional if not _present(index, name))
    modules = family.assemble(modules)
    given = {**modules, **tokenizers, **absent, "scheduler": sampler, **family.settings, **flag}
    return Parts(
        family, family.pipeline(**given), folder, index, config, trained, _extras(folder, index, family)
    )


def glance(path: str, revision: str | None) -> None:
    """Raise UserError for a folder of anything but a pipeline that is known here, with its parts. Reads no
    weights, and of a hub id the index alone."""
    folder, whole = glance_at(path, revision)
    index = _read_index(folder)
    family = family_of(folder, index)
    if whole:
        _check_components(folder, index, family)


def _schedulers(family: Family, config: Mapping[str, Any], how: Loading) -> tuple[Any, Any]:
    """One to sample with and one that keeps all noise levels."""
    if family.flow:
        if "flow_shift" in config:  # of the multistep solvers that some flows are published with
            config = {**config, "shift": config["flow_shift"] or 1.0}
        own = {} if how.shift is None else {"shift": how.shift, "use_dynamic_shifting": False}
        cls = FlowMatchEulerDiscreteScheduler
        return cls.from_config(config), cls.from_config({**config, **own})
    sampled = {**config, "clip_sample": False}  # latents are not bounded to -1..1
    trained = {**sampled, "rescale_betas_zero_snr": True} if how.zero_terminal_snr else sampled
    if config.get("prediction_type") in ("v_prediction", "sample"):
        sampled = trained  # predicted noise says nothing of the picture where there is noise alone
    if family.scheduler is not None:
        return family.scheduler.from_config(sampled), family.scheduler.from_config(trained)
    return DDIMScheduler.from_config(sampled), DDPMScheduler.from_config(trained)


# ---------------------------------------------------------------- loading


def _wanted_files(variant: str | None) -> tuple[str, ...]:
    """Patterns of a hub pipeline's files: configs, tokenizer files and one variant of the weights."""
    stems = [stem if variant is None else f"{stem}.{variant}" for stem in ("model", _STEM)]
    weights = [f"*/{stem}{shard}.safetensors" for stem in stems for shard in ("", "-*-of-*")]
    return ("*.json", "tokenizer*/*.txt", "tokenizer*/*.model", *weights)


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / "model_index.json"
    if not file.is_file() and (folder / "tokenizer.json").exists():
        raise UserError(
            f"{folder}: holds a language model, no pipeline (model_index.json); use model.adapter: text"
        )
    if not file.is_file():
        raise UserError(f"{file}: missing; a pipeline folder has one (saved with save_pretrained)")
    return read_json(file)


def _present(index: Mapping[str, Any], name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def _check_components(folder: Path, index: Mapping[str, Any], family: Family) -> dict[str, type[Any]]:
    """The class of every component with weights, as the index names it."""
    file, used, classes = folder / "model_index.json", family.components, {}
    for name in used:
        if not _present(index, name):
            if name in family.optional:
                continue
            raise UserError(
                f"{file}: component {name} is missing; a {family.pipeline.__name__} needs {', '.join(used)}"
            )
        if name in family.models:
            known = {cls.__name__: cls for cls in family.models[name]}
            found = index[name][1]
            if found not in known:
                wanted = " or ".join(known)
                raise UserError(f"{file}: component {name} must be of class {wanted}, got {found}")
            classes[name] = known[found]
        if not (folder / name).is_dir():
            raise UserError(f"{folder}: component folder {name} is missing; copy the whole pipeline")
    return classes


def _extras(folder: Path, index: Mapping[str, Any], family: Family) -> tuple[str, ...]:
    """Unused components that are there; one that is only named becomes null in what is saved."""
    named = [name for name, entry in index.items() if isinstance(entry, list) and entry[-1] is not None]
    unused = [name for name in named if name not in {*family.components, *family.outdated}]
    for name in unused:
        if name != Path(name).name:
            raise UserError(f"{folder}/model_index.json: component name {name!r} is not a folder name")
    return tuple(name for name in unused if (folder / name).is_dir())


def _load_module(folder: Path, cls: type[Any], variant: str | None, how: Loading, trains: bool) -> nn.Module:
    """One component with its weights, in eval mode; frozen unless it is the denoiser."""
    read_json(folder / "config.json")
    encoder = cls.__module__.startswith("transformers.")
    stem = "model" if encoder else _STEM
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no .safetensors weights; save the pipeline with safe_serialization=True")
    check_weights(folder, stem, variant=variant)
    own: dict[str, Any] = {"dtype": how.encoders}
    if not encoder:
        # with low_cpu_mem_usage, one weight of another shape would end it before all are named; upstream
        # insists on it where a few weights stay in float32 whatever type is asked
        own = {
            "torch_dtype": how.denoiser if trains else torch.float32,
            "low_cpu_mem_usage": cls._keep_in_fp32_modules is not None,
        }
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # what it would log is raised below
    try:
        with readable_errors(str(folder)):
            module, info = cls.from_pretrained(
                folder,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that all of them are named below
                **own,
            )
    finally:
        diffusers_logging.set_verbosity(level)
    refuse_misfits(info, str(folder))
    return module.eval() if trains else module.eval().requires_grad_(False)


def _read_scheduler(folder: Path, index: Mapping[str, Any], family: Family) -> dict[str, Any]:
    file = folder / "scheduler" / "scheduler_config.json"
    config = read_json(file)
    name, pipeline = config.get("_class_name"), family.pipeline.__name__
    if family.flow:
        told = config.get("prediction_type", "flow_prediction")
        solver = config.get("use_flow_sigmas") is True and told == "flow_prediction"
        if name != FlowMatchEulerDiscreteScheduler.__name__ and not solver:
            raise UserError(
                f"{file}: {name} with prediction_type {told!r} is not taken; a {pipeline} is a flow, whose "
                "scheduler is FlowMatchEulerDiscreteScheduler or has use_flow_sigmas"
            )
        known = (FlowMatchEulerDiscreteScheduler.__name__, *_FLOW_SOLVERS)
    else:
        known = family.schedulers or _VP_SCHEDULERS
    # upstream's loader goes by the index, and the file's own name by whoever loads the scheduler alone
    for where, found in ((folder / "model_index.json", index["scheduler"][1]), (file, name)):
        if found not in known:
            raise UserError(f"{where}: scheduler {found} is not taken; a {pipeline} has {' or '.join(known)}")
    if family.flow:
        return config
    prediction = config.get("prediction_type", "epsilon")
    # a schedule without betas is of another kind (flow matching, EDM), whatever it says it predicts
    betas = "beta_schedule" in config and "num_train_timesteps" in config
    if prediction not in _VP_PREDICTIONS or not betas:
        raise UserError(
            f"{file}: {name} with prediction_type {prediction!r} is not taken; a {pipeline} "
            f"has a noise schedule with one of {', '.join(_VP_PREDICTIONS)}"
        )
    return config


def _check_vocabularies(folder: Path, modules: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
    """Every tokenizer has an encoder with as many embeddings, where they go by matching names."""
    for name, tokenizer in tokenizers.items():
        encoder = modules.get(name.replace("tokenizer", "text_encoder"))
        if encoder is None:
            continue
        size = int(encoder.get_input_embeddings().num_embeddings)
        if len(tokenizer) > size:
            raise UserError(f"{folder}/{name}: its {len(tokenizer)} tokens exceed the text encoder's {size}")


def fitting_resolution(parts: Parts, wanted: int | None, factor: int) -> int:
    """Side of square pictures in pixels: as wanted, or the pipeline's own. Raises UserError."""
    size, step = parts.denoiser.config.get("sample_size"), factor * parts.family.multiple
    if wanted is None:
        if not isinstance(size, int):
            found = "no size of its own" if size is None else f"no single size ({size})"
            raise UserError(f"model.resolution: {parts.folder} has {found}; give a number of pixels")
        return int(size) * factor
    if wanted % step:
        raise UserError(
            f"model.resolution: must be a multiple of {step}, the autoencoder's factor, got {wanted}"
        )
    largest = parts.family.largest(parts.denoiser)
    if largest is not None and wanted > largest * factor:
        raise UserError(
            f"model.resolution: {parts.folder} places at most {largest * factor} pixels a side, got {wanted}"
        )
    return wanted
