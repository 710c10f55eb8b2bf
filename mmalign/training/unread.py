"""Settings of a denoiser that an objective would not read: set, they are refused instead of passed over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from mmalign.config import RunConfig
from mmalign.objectives._sum import WeightedSum
from mmalign.types import Objective, UserError

_WEIGHED: dict[str, Any] = {"weighting": "none"}
_SCORED: dict[str, Any] = {**_WEIGHED, "noise_offset": 0.0, "error_space": "native"}
_DRAWN: dict[str, Any] = {**_SCORED, "caption_dropout": 0.0, "num_draws": 1, "flip": False}


def check_unread(config: RunConfig) -> None:
    """Raise UserError for a setting of the model that would do nothing under the objective."""
    for reason, plain in _unread(config.objective):
        for name, rule in plain.items():
            value = getattr(config.model, name, rule)  # an adapter of another kind has none
            if value != rule:
                raise UserError(f"model.{name}: {reason}; set it to {rule}, got {value}")
        if "caption_dropout" not in plain:
            continue
        levels = getattr(config.model, "timesteps", None)
        # the shift is of the noise levels themselves
        if levels is not None and dataclasses.replace(levels, shift=None) != type(levels)():
            raise UserError(f"model.timesteps: {reason}; remove all but shift")


def _unread(objective: Objective) -> Iterator[tuple[str, dict[str, Any]]]:
    """Why settings are not read, and what they must be."""
    inversion = objective.inversion
    if objective.rollout is not None:
        yield "rewards are of sampled media, which nothing is drawn for", {**_DRAWN, "buckets": "square"}
    elif "transition" in objective.needs:
        yield "stored paths draw nothing", _DRAWN
    elif inversion is not None and inversion.whole:
        yield "inverted paths draw nothing", _DRAWN
    elif inversion is not None:
        yield "the noise is found by inversion", {"noise_offset": 0.0}
    terms = [term for _, _, term in objective.terms] if isinstance(objective, WeightedSum) else [objective]
    if all(term.needs == {"error"} for term in terms):
        yield "this objective is on raw errors", _WEIGHED
