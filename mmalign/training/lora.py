"""LoRA on any policy: injected in place, so that the module keeps its class and its upstream methods."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mmalign.adapters._score_head import ScoreHead
from mmalign.adapters._users import UserPart
from mmalign.config import Lora
from mmalign.types import UserError, derive_seed

if TYPE_CHECKING:  # imported where it is used: it brings transformers along, and rows are refused before that
    from peft.tuners.tuners_utils import BaseTunerLayer

NAME = "policy"
# Where an adapter's weights lie, and what their names begin with there.
_FILES = {
    "adapter_model.safetensors": ("base_model.model.",),
    "pytorch_lora_weights.safetensors": ("unet.", "transformer."),
}


@runtime_checkable
class BesideLora(Protocol):
    """An adapter whose samples may depend on more than the model's own files and a LoRA adapter."""

    def beside_lora(self) -> str | None:
        """What a pipeline needs besides to sample as it does here, as a line; None: nothing."""


def inject(policy: nn.Module, lora: Lora, targets: str | list[str], seed: int) -> None:
    """Freeze the policy and add trainable float32 adapters; starts as the identity or as `lora.path`. A
    reward model's head goes on training whole.

    Raises UserError if no module matches the targets or if the saved adapter does not fit.
    """
    from peft import LoraConfig, inject_adapter_in_model

    from mmalign.training._lora_linear import fuse

    policy.requires_grad_(False)
    chosen = lora.targets if lora.targets is not None else targets
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha if lora.alpha is not None else lora.rank,
        lora_dropout=lora.dropout,
        target_modules=list(chosen) if isinstance(chosen, tuple) else chosen,
        init_lora_weights="gaussian" if lora.init == "gaussian" else True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, 0, "", "lora"))
        try:
            inject_adapter_in_model(config, policy, adapter_name=NAME)
        except ValueError as error:
            raise UserError(f"lora.targets: {' '.join(str(error).split())[:200]}") from error
    fuse(policy)
    for parameter in heads(policy):
        parameter.requires_grad_(True)
    own = {id(parameter) for parameter in heads(policy)}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad and id(parameter) not in own:
            assert "lora_" in name, f"{name} would train although it is no adapter weight"
            parameter.data = parameter.data.float()
    if lora.path is not None:
        _check_scaling(Path(lora.path), lora)
        set_weights(policy, _read(Path(lora.path)), f"lora.path {lora.path}")


def weights(policy: nn.Module) -> dict[str, Tensor]:
    """The adapter's weights under the names peft saves."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(policy, adapter_name=NAME))


def set_weights(policy: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Fill the adapter. Raises UserError naming the first weight that is missing, unknown or misshapen."""
    own = weights(policy)
    for name in sorted(own.keys() | state.keys()):
        if name not in state or name not in own:
            problem = "lacks" if name not in state else "holds the unknown"
            raise UserError(
                f"{where}: {problem} weight {name}; was it made for another base or other targets?"
            )
        if own[name].shape != state[name].shape:
            raise UserError(
                f"{where}: {name} has shape {list(state[name].shape)}, this run needs "
                f"{list(own[name].shape)}; check lora.rank and the base model"
            )
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(policy, state, adapter_name=NAME)


def _read(folder: Path) -> dict[str, Tensor]:
    for file, prefixes in _FILES.items():
        if (folder / file).is_file():
            try:
                state = load_file(folder / file)
            except (SafetensorError, OSError) as error:
                raise UserError(f"lora.path {folder}: {file} is not a whole safetensors file") from error
            return {_without(name, prefixes): value for name, value in state.items()}
    raise UserError(f"lora.path {folder}: holds none of {', '.join(_FILES)}")


def _check_scaling(folder: Path, lora: Lora) -> None:
    """Refuse a saved adapter that would act with another strength here: the factor is not in its weights."""
    saved = _saved_settings(folder)
    ours = lora.alpha if lora.alpha is not None else lora.rank
    alpha = saved.get("lora_alpha", ours)
    if alpha != ours:
        raise UserError(
            f"lora.path {folder}: was saved with alpha {alpha}, here it is {ours}; set lora.alpha={alpha}"
        )
    odd = [key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if saved.get(key)]
    if odd:
        raise UserError(f"lora.path {folder}: was saved with {odd[0]}, which this trainer has not")


def _saved_settings(folder: Path) -> dict[str, Any]:
    """What peft or diffusers noted beside the weights; empty if nothing."""
    try:
        if (folder / "adapter_config.json").is_file():
            found = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        elif (folder / "pytorch_lora_weights.safetensors").is_file():
            with safe_open(folder / "pytorch_lora_weights.safetensors", framework="pt") as file:
                found = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        else:
            found = {}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"lora.path {folder}: its files are broken: {' '.join(str(error).split())[:200]}"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"lora.path {folder}: adapter_config.json must hold a JSON object")
    prefixes = _FILES["pytorch_lora_weights.safetensors"]
    return {_without(key, prefixes): value for key, value in found.items()}


def _without(name: str, prefixes: Sequence[str]) -> str:
    """A name without the one of these that it begins with."""
    found = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return name.removeprefix(found)


def heads(policy: nn.Module) -> list[nn.Parameter]:
    """The weights of a reward model's head, or of what reads users; none for any other model."""
    kinds = (ScoreHead, UserPart)
    return [p for module in policy.modules() if isinstance(module, kinds) for p in module.parameters()]


def layers(policy: nn.Module) -> list[BaseTunerLayer]:
    """Every adapted layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]


@contextmanager
def switched_off(policy: nn.Module, adapted: Sequence[BaseTunerLayer] | None = None) -> Iterator[nn.Module]:
    """The base model: adapters disabled inside the block, restored also if the block raises. Whoever switches
    every step passes the policy's `layers`, so that they need not be looked for."""
    adapted = layers(policy) if adapted is None else adapted
    before = [layer.disable_adapters for layer in adapted]
    # `enable_adapters` would also walk through the weights of every layer to change what requires gradients
    for layer in adapted:
        layer._disable_adapters = True
    assert all(layer.disable_adapters for layer in adapted), "this release of peft keeps its switch elsewhere"
    try:
        yield policy
    finally:
        for layer, disabled in zip(adapted, before, strict=True):
            layer._disable_adapters = disabled


@contextmanager
def swapped(policy: nn.Module, frozen: dict[str, Tensor]) -> Iterator[nn.Module]:
    """The policy with its trainable tensors replaced by `frozen` ones inside the block, without a copy.

    Scoring with it must not happen between the policy's forward and backward: autograd keeps the parameters
    themselves, and would see the swapped values if the block were still open.
    """
    own = {name: p for name, p in policy.named_parameters() if name in frozen}
    kept = {name: p.data for name, p in own.items()}
    for name, parameter in own.items():
        parameter.data = frozen[name]
    try:
        yield policy
    finally:
        for name, parameter in own.items():
            parameter.data = kept[name]
