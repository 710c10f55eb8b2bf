"""What trains, as a table of a model's parts; printed before the first step and kept in the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn


def lines(policy: nn.Module, parts: Mapping[str, Sequence[str]]) -> list[str]:
    """One line per part: its own weights, how many train, and how. `parts` names weights as they were called
    before LoRA was added."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    part_of = {name: part for part, names in parts.items() for name in names}
    every = [
        (name.replace(".base_layer.", "."), parameter)
        for name, parameter in policy.named_parameters(remove_duplicate=False)
    ]
    shared = {id(parameter): part_of[name] for name, parameter in every if name in part_of}
    # a tied weight has two names, of which `parts` has the first
    part_of |= {name: shared[id(parameter)] for name, parameter in every if id(parameter) in shared}
    total, trained, layers = dict.fromkeys(parts, 0), dict.fromkeys(parts, 0), dict.fromkeys(parts, 0)
    for name, parameter in policy.named_parameters():
        plain = name.replace(".base_layer.", ".")
        layer, adapted, _ = plain.partition(".lora_")
        part = part_of[f"{layer}.weight" if adapted else plain]
        if not adapted:
            total[part] += parameter.numel()
        if parameter.requires_grad:
            trained[part] += parameter.numel()
    for name, module in policy.named_modules():
        if isinstance(module, BaseTunerLayer):
            layers[part_of[f"{name}.weight"]] += 1
    return [_line(part, total[part], trained[part], layers[part]) for part in parts]


def _line(part: str, total: int, trained: int, layers: int) -> str:
    if not trained:
        how = "frozen"
    elif layers:
        how = f"{trained:,} LoRA weights on {layers} layers"
    else:
        how = "all" if trained == total else f"{trained:,} of them"
    return f"trains: {part:<10} {total:>15,} weights: {how}"
