"""What the flow families have in common: the sampler's noise levels, which may depend on a picture's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmalign.types import UserError

# All attention of the blocks that read captions and latents side by side; the second half is the captions'.
JOINT_ATTENTION = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
)


def shift_of(scheduler: Any, tokens: int) -> float:
    """The exponent mu by which a schedule that goes by size is shifted at `tokens` of latents: the line
    through two pairs of (tokens, mu) in the scheduler's config, at upstream's values where it is silent."""
    config = scheduler.config
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(low + (tokens - few) * (high - low) / (many - few))


def grid_by_size(scheduler: Any, steps: int, shape: Sequence[int]) -> None:
    """`steps` levels as the scheduler spaces them itself, shifted by the size of latents [C, h, w] where it
    says so."""
    if scheduler.config.get("use_dynamic_shifting"):
        scheduler.set_timesteps(steps, mu=shift_of(scheduler, shape[-2] * shape[-1] // 4))
    else:
        scheduler.set_timesteps(steps)


def even_grid_by_size(scheduler: Any, steps: int, shape: Sequence[int]) -> None:
    """Even steps from level 1 to 1/steps, shifted once: by the size of latents [C, h, w] or as configured."""
    even_grid(scheduler, steps, shape[-2] * shape[-1] // 4)


def even_grid(scheduler: Any, steps: int, tokens: int) -> None:
    """Even steps from level 1 to 1/steps, shifted once: by the number of tokens or as configured."""
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift_of(scheduler, tokens))


def check_numbers(folder: Path, config: Mapping[str, Any], wanted: Mapping[str, tuple[int, str]]) -> None:
    """Entries of a transformer's config are what the other components give. Raises UserError naming one.

    `wanted`: entry -> its value and what gives it.
    """
    for key, (value, why) in wanted.items():
        if config.get(key) != value:
            raise UserError(f"{folder}/transformer: {key} must be {value}, {why}, got {config.get(key)}")
