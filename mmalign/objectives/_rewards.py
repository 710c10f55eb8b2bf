"""Shared by objectives that train on the reward of sampled media."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmalign.types import Outcome, State

PROMPTS = {"policy": ("prompt",)}


def on_reward(loss: Tensor, labels: Mapping[str, Any], state: State) -> Outcome:
    """The outcome of a loss [S] of the label `reward` [S], which is logged."""
    return Outcome(loss, {"reward": labels["reward"].detach()}, state)
