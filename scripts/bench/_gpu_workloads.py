"""The workloads of the GPU benchmark: who takes part, what may be given up to fit, targets and the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from _diffusion_inputs import RANK
from _gpu_measure import Side
from _gpu_models import Frozen
from _gpu_peers import DiffusionDPO, InversionDPO, MaPO, Peer, Shared
from _gpu_sides import GpuOurs, Pairs, objective
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode

Build = Callable[[Frozen, Pairs, int, str], dict[str, Side]]  # (frozen, pairs, inversion steps, precision)


@dataclass(frozen=True)
class Target:
    """A ratio to be reached by the low end of its interval."""

    peer: str
    ours: str
    ratio: float


@dataclass(frozen=True)
class Workload:
    """Sides that take the same step. `live` says of ours whether the reference's forward is in the floor;
    `share` is of the time, and `use` the aimed share of the measured product's speed."""

    title: str
    shape: str
    pairs: int
    build: Build
    against: str
    live: Mapping[str, bool]
    targets: tuple[Target, ...]
    use: float
    share: float
    lora: bool
    paired: bool = True  # the loss starts at ln 2
    steps: int = 0  # of an inversion
    warmup: int = 10
    rounds: int = 15

    def attempts(self, count: int) -> list[dict[str, Any]]:
        """What ours tries until it fits: all pairs at once, fewer, and recomputed activations."""
        if self.steps:
            chunks = [{"step_chunk": 2}, {"step_chunk": 1}]
            return [*chunks, {"step_chunk": 2, "checkpointing": True}]
        sizes = [count, *sorted({max(1, count // part) for part in (2, 4)} - {count}, reverse=True)]
        return [*({"micro": size} for size in sizes), {"micro": count, "checkpointing": True}]


def _dpo_lora(frozen: Frozen, pairs: Pairs, steps: int, precision: str) -> dict[str, Side]:
    section, train = objective("dpo"), {"precision": precision}
    return {
        "ours": GpuOurs(frozen, pairs, section, "lora_off", True, train),
        "ours_fixed": GpuOurs(frozen, pairs, section, "cached", True, {**train, "draws": "fixed:1"}),
        "script": DiffusionDPO(frozen, pairs, False, precision=precision),
        "script_checkpointed": DiffusionDPO(frozen, pairs, True, precision=precision),
    }


def _dit_lora(frozen: Frozen, pairs: Pairs, steps: int, precision: str) -> dict[str, Side]:
    return {
        "ours": GpuOurs(frozen, pairs, objective("dpo"), "lora_off", True, {"precision": precision}),
        "script": DiffusionDPO(frozen, pairs, False, precision=precision),
        "script_checkpointed": DiffusionDPO(frozen, pairs, True, precision=precision),
    }


def _dpo_full(frozen: Frozen, pairs: Pairs, steps: int, precision: str) -> dict[str, Side]:
    ours = GpuOurs(frozen, pairs, objective("dpo"), "copy", False, {"precision": precision})
    shared = Shared(ours.model, ours.optimizer)
    return {"ours": ours, "script": DiffusionDPO(frozen, pairs, True, shared, precision=precision)}


def _mapo_full(frozen: Frozen, pairs: Pairs, steps: int, precision: str) -> dict[str, Side]:
    ours = GpuOurs(frozen, pairs, objective("mapo"), "none", False, {"precision": precision})
    peer = MaPO(frozen, pairs, True, Shared(ours.model, ours.optimizer), precision=precision)
    return {"ours": ours, "script": peer}


def _inversion_full(frozen: Frozen, pairs: Pairs, steps: int, precision: str) -> dict[str, Side]:
    train = {"precision": precision, "backward": "deferred", "step_chunk": 1}
    ours = GpuOurs(frozen, pairs, objective("inversion", steps), "copy", False, train)
    peer = InversionDPO(frozen, pairs, True, Shared(ours.model, ours.optimizer), precision=precision)
    peer.steps = steps
    return {"ours": ours, "script": peer}


def exact_side(frozen: Frozen, pairs: Pairs) -> Peer:
    """What the sides of a LoRA workload are all an approximation of, in float32."""
    return DiffusionDPO(frozen, pairs, True, precision="exact")


_CHECKPOINTED = "script_checkpointed"
WORKLOADS = {
    "G7": Workload(
        f"G7: Stable Diffusion 1.5 at 512 pixels, Diffusion-DPO, LoRA rank {RANK}",
        "sd15",
        16,
        _dpo_lora,
        "script_checkpointed",
        {"ours": True, "ours_fixed": False},
        (Target(_CHECKPOINTED, "ours", 2.0), Target(_CHECKPOINTED, "ours_fixed", 2.9)),
        0.40,
        share=1.0,
        lora=True,
    ),
    "G8": Workload(
        "G8: SDXL at 1024 pixels, Diffusion-DPO, all weights",
        "sdxl",
        4,
        _dpo_full,
        "script",
        {"ours": True},
        (Target("script", "ours", 1.8),),
        0.45,
        share=1.3,
        lora=False,
    ),
    "G9": Workload(
        "G9: SDXL at 1024 pixels, MaPO, all weights",
        "sdxl",
        4,
        _mapo_full,
        "script",
        {"ours": False},
        (Target("script", "ours", 2.0),),
        0.45,
        share=1.1,
        lora=False,
        paired=False,
    ),
    "G11": Workload(
        f"G11: a transformer of Stable Diffusion 3's size at 1024 pixels, Diffusion-DPO, LoRA rank {RANK}",
        "dit",
        4,
        _dit_lora,
        "script_checkpointed",
        {"ours": True},
        (Target(_CHECKPOINTED, "ours", 2.2),),
        0.55,
        share=1.3,
        lora=True,
    ),
    "G10": Workload(
        "G10: SDXL at 1024 pixels, Inversion-DPO along 20 steps under guidance, all weights",
        "sdxl",
        1,
        _inversion_full,
        "script",
        {"ours": False},
        (Target("script", "ours", 2.2),),
        0.45,
        share=4.0,
        lora=False,
        steps=20,
        warmup=3,
    ),
}


def floor_flops(workload: Workload, frozen: Frozen, pairs: int, steps: int, live: bool) -> int:
    """Operations that the step cannot do without: the denoiser forward and backward over all pictures, and
    once more forward where the reference is scored live. Counted on a network without memory."""
    shape, meta = frozen.shape, torch.device("meta")
    model = frozen.denoiser(torch.bfloat16, meta)
    latents = torch.zeros(2, *shape.latents, device=meta, dtype=torch.bfloat16)
    told = _told(frozen, meta)
    with FlopCounterMode(display=False) as counter:
        if live:
            with torch.no_grad():
                Peer.forward(model, latents, torch.zeros(2, device=meta), told)
        if workload.lora:
            model.requires_grad_(False)
            model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(shape.targets)))
        Peer.forward(model, latents, torch.zeros(2, device=meta), told).sum().backward()
    each = 2 * steps if workload.steps else 1  # both halves of guidance at every step
    return pairs * each * int(counter.get_total_flops())


def _told(frozen: Frozen, device: torch.device) -> dict[str, torch.Tensor]:
    """Zeros in place of what the denoiser is told of two pictures."""
    shape = frozen.shape

    def zeros(*size: int) -> torch.Tensor:
        return torch.zeros(2, *size, device=device, dtype=torch.bfloat16)

    if shape.t5 is not None:
        states = zeros(77 + 256, shape.t5["d_model"])
        return {
            "encoder_hidden_states": states,
            "pooled_projections": zeros(shape.denoiser["pooled_projection_dim"]),
        }
    told = {"encoder_hidden_states": zeros(77, shape.denoiser["cross_attention_dim"])}
    if shape.clip_2 is not None:
        told |= {"text_embeds": zeros(shape.clip_2["projection_dim"]), "time_ids": zeros(6)}
    return told
