"""The parts of a model that looks: language model, projector, vision tower; which of them train."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mmalign.types import UserError

# Where a projector stands, below the model's core. Whatever lies beside language model, projector and tower
# (a learned line break of LLaVA-OneVision, say) belongs to the projector too.
PROJECTORS = ("multi_modal_projector", "connector", "visual.merger", "visual.deepstack_merger_list")


def parts_of(model: Any) -> dict[str, list[str]]:
    """Names of all weights of the model by part: language (output head included), projector, vision.

    Raises UserError for a model whose tower or language model cannot be told apart.
    """
    core = core_of(model)
    tower, language = core.get_encoder(modality="image"), model.get_decoder()
    if tower is core or language is core or language is model:
        raise UserError(f"{type(model).__name__}: its vision tower and language model cannot be told apart")
    inner = {id(p) for name in PROJECTORS if (m := _at(core, name)) is not None for p in m.parameters()}
    vision = {id(p) for own in towers_of(core) for p in own.parameters()} - inner
    words = {id(p) for p in language.parameters()}
    words |= {
        id(p) for m in (model.get_output_embeddings(), model.get_input_embeddings()) for p in m.parameters()
    }
    found: dict[str, list[str]] = {"language": [], "projector": [], "vision": []}
    for name, parameter in model.named_parameters():
        part = "vision" if id(parameter) in vision else "language" if id(parameter) in words else "projector"
        found[part].append(name)
    return found


def core_of(model: Any) -> Any:
    """The model below its output head: what asks for features and gives hidden states."""
    core = getattr(model, "model", None)
    if not isinstance(core, nn.Module) or not hasattr(core, "get_image_features"):
        raise UserError(f"{type(model).__name__}: has no core that encodes pictures (get_image_features)")
    return core


def reads_both_ways(model: Any) -> bool:
    """True for models whose tokens see the whole prompt and of the answer what is before them (PaliGemma)."""
    return str(model.config.model_type) == "paligemma"


def towers_of(core: Any) -> list[nn.Module]:
    """The vision tower; in Video-LLaVA also the one for clips."""
    other = _at(core, "video_tower")
    return [core.get_encoder(modality="image"), *([] if other is None else [other])]


def _at(core: nn.Module, name: str) -> nn.Module | None:
    try:
        return core.get_submodule(name)
    except AttributeError:
        return None


def projector_of(core: Any) -> nn.Module:
    """The module that turns what the tower gives into the language model's width."""
    found = next((m for name in PROJECTORS if (m := _at(core, name)) is not None), None)
    if found is None:
        raise UserError(
            f"{type(core).__name__}: has none of the projectors known here, {', '.join(PROJECTORS)}"
        )
    return found


def has_one_projector(core: Any) -> bool:
    """True if all that the language model sees of a picture passes one projector behind the whole tower."""
    return sum(_at(core, name) is not None for name in PROJECTORS) == 1


def tower_layers(core: Any, tower: nn.Module | None = None) -> nn.ModuleList:
    """The transformer layers of a vision tower; without one named, of that for pictures."""
    tower = core.get_encoder(modality="image") if tower is None else tower
    assert tower is not None
    lists = [m for m in tower.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise UserError(f"{type(core).__name__}: its vision tower has no list of layers")
    return max(lists, key=len)


def freeze(model: Any, parts: Mapping[str, Sequence[str]], trains: Sequence[str]) -> None:
    """Only the named parts train; in a tower that trains, what the model never reads of it stays frozen.

    A layer without a gradient would make data-parallel training fail at its second step.
    """
    wanted = {name for part in trains for name in parts[part]}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    if "vision" in trains:
        unread = unread_of(model)
        for name, parameter in model.named_parameters():
            if name in unread:
                parameter.requires_grad_(False)


def unread_of(model: Any) -> frozenset[str]:
    """Names of weights behind the last tower layer that is read (`vision_feature_layer`; LLaVA and kin)."""
    chosen = getattr(model.config, "vision_feature_layer", None)
    if chosen is None:
        return frozenset()
    behind: list[nn.Module] = []
    for tower in towers_of(core_of(model)):
        layers = tower_layers(core_of(model), tower)
        last = max(
            i if i >= 0 else len(layers) + 1 + i for i in ([chosen] if isinstance(chosen, int) else chosen)
        )
        behind += layers[last:]
        behind += [m for n, m in tower.named_modules() if n.endswith(("post_layernorm", "head"))]
    found = {id(parameter) for module in behind for parameter in module.parameters()}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in found)


def lora_sites(model: Any, parts: Mapping[str, Sequence[str]], trains: Sequence[str]) -> str:
    """A pattern of the linear layers of the named parts, output head and embeddings left out."""
    head = model.get_output_embeddings()
    patterns = []
    for part in trains:
        own = {name.rpartition(".")[0] for name in parts[part]}
        sites = [
            n for n, m in model.named_modules() if n in own and isinstance(m, nn.Linear) and m is not head
        ]
        if not sites:
            raise UserError(f"model.trains: {part} has no linear layer that LoRA could adapt")
        patterns += sorted({re.sub(r"\.\d+(?=\.)", r".@", re.escape(n).replace(r"\.", ".")) for n in sites})
    return "|".join(p.replace(".", r"\.").replace("@", r"\d+") for p in dict.fromkeys(patterns))
