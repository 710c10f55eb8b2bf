"""The workloads of the diffusion benchmark: who runs in each, what must be beaten, and the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _diffusion_inputs import INVERSION_STEPS, RANK, SIDE, TARGETS
from _diffusion_ours import DPO, INVERSION, MAPO, Ours
from _diffusion_peers import DiffusionDPO, InversionDPO, MaPO
from _sides import Side
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Contestant:
    """A side by what it is called in tables, and how it is built from the folder of inputs."""

    title: str
    build: Callable[[Path], Side]


@dataclass(frozen=True)
class Bar:
    """A ratio that must be reached by the low end of its interval, and one that is aimed at."""

    id: str
    peer: str
    ours: str
    must: float
    goal: float


@dataclass(frozen=True)
class Workload:
    """Sides that take the same step; those called `ours...` are ours. Equal results are checked against
    `against`. `lora` and `reference` say what the floor counts for each of ours."""

    title: str
    sides: Mapping[str, Contestant]
    against: str
    lora: bool
    live: Mapping[str, bool]
    bars: tuple[Bar, ...] = ()
    forwards: int = 1  # of both pictures, for one loss; guidance takes two


WORKLOADS = {
    "dpo": Workload(
        f"Diffusion-DPO, LoRA rank {RANK} on the attention's projections",
        {
            "script": Contestant("script", lambda f: DiffusionDPO(f, True, False)),
            "script_checkpointed": Contestant(
                "script, activations recomputed", lambda f: DiffusionDPO(f, True, True)
            ),
            "ours": Contestant("ours, reference live", lambda f: Ours(f, DPO, "lora_off")),
            "ours_fixed": Contestant(
                "ours, one fixed draw a pair, reference cached",
                lambda f: Ours(f, DPO, "cached", train={"draws": "fixed:1"}),
            ),
        },
        against="script",
        lora=True,
        live={"ours": True, "ours_fixed": False},
        bars=(Bar("C7", "script", "ours", 1.15, 1.35), Bar("C8", "script", "ours_fixed", 1.65, 1.9)),
    ),
    "mapo": Workload(
        f"MaPO, LoRA rank {RANK} on the attention's projections",
        {
            "script": Contestant("script", lambda f: MaPO(f, True, False)),
            "ours": Contestant("ours", lambda f: Ours(f, MAPO, "none")),
        },
        against="script",
        lora=True,
        live={"ours": False},
        bars=(Bar("C9", "script", "ours", 1.3, 1.5),),
    ),
    "dpo_full": Workload(
        "Diffusion-DPO, all weights of the UNet",
        {
            "script": Contestant("script", lambda f: DiffusionDPO(f, False, False)),
            "ours": Contestant("ours, reference live", lambda f: Ours(f, DPO, "copy", lora=False)),
        },
        against="script",
        lora=False,
        live={"ours": True},
    ),
    "inversion": Workload(
        f"Inversion-DPO along {INVERSION_STEPS} steps under guidance, all weights of the UNet",
        {
            "script": Contestant("script", lambda f: InversionDPO(f, False)),
            "script_checkpointed": Contestant(
                "script, activations recomputed", lambda f: InversionDPO(f, True)
            ),
            "ours": Contestant(
                "ours, paths kept, all steps at once",
                lambda f: Ours(f, INVERSION, "auto", lora=False, train={"backward": "direct"}),
            ),
            "ours_deferred": Contestant(
                "ours, paths kept, step by step",
                lambda f: Ours(f, INVERSION, "auto", lora=False, train={"backward": "deferred"}),
            ),
        },
        against="script",
        lora=False,
        live={"ours": False, "ours_deferred": False},
        bars=(Bar("C10", "script_checkpointed", "ours", 3.0, 3.2),),
        forwards=2 * INVERSION_STEPS,
    ),
}


def floor_flops(folder: Path, workload: Workload, side: str) -> int:
    """Operations that the workload cannot do without: the UNet forward and backward over both pictures, and
    once more forward where the reference is scored live. Counted on the bare network."""
    unet: Any = UNet2DConditionModel.from_pretrained(folder / "model", subfolder="unet")
    latents = torch.zeros(2, 4, SIDE // 8, SIDE // 8)
    states = torch.zeros(2, 77, unet.config.cross_attention_dim)
    with FlopCounterMode(display=False) as counter:
        if workload.live[side]:
            with torch.no_grad():
                unet(latents, torch.zeros(2), states)
        if workload.lora:
            unet.requires_grad_(False)
            unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)))
        unet(latents, torch.zeros(2), states).sample.sum().backward()
    return workload.forwards * int(counter.get_total_flops())
