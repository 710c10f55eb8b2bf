"""A weighted sum of objectives that share one forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmalign.types import AllMean, Inversion, Objective, Outcome, Rollout, Scores, State, UserError, View


@dataclass(frozen=True)
class WeightedSum(Objective):
    """sum_i weight_i * loss_i. Each term's loss is logged as "dpo/loss"; its other metrics carry the
    label only where several terms have one of that name; its state always does."""

    terms: tuple[tuple[str, float, Objective], ...]  # label, weight, objective

    def __post_init__(self) -> None:
        if len({term.inversion for _, _, term in self.terms}) > 1:
            raise UserError("objective: all terms must invert latents alike, or none")
        if len({term.rollout for _, _, term in self.terms}) > 1:
            raise UserError("objective: terms on rewards must sample alike, and none may be on data")
        views = self.views
        for label, _, term in self.terms:
            for role, view in term.views.items():
                if view != views[role]:
                    raise UserError(
                        f"objective {label}: makes role {role} by {view.change} of {view.of}, another term "
                        f"by {views[role].change} of {views[role].of}; give the two roles different names"
                    )

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """Union per source, in order of first mention."""
        union: dict[str, tuple[str, ...]] = {}
        for _, _, term in self.terms:
            for source, roles in term.roles.items():
                union[source] = tuple(dict.fromkeys((*union.get(source, ()), *roles)))
        return union

    @property
    def needs(self) -> frozenset[str]:
        """Union of the terms' needs."""
        return frozenset().union(*(term.needs for _, _, term in self.terms))

    @property
    def fields(self) -> tuple[str, ...]:
        """Union of the terms' labels."""
        return tuple(dict.fromkeys(name for _, _, term in self.terms for name in term.fields))

    @property
    def detached(self) -> tuple[str, ...]:
        """Roles that no term differentiates."""
        wanted = {r for _, _, t in self.terms for r in t.roles.get("policy", ()) if r not in t.detached}
        named = {role for _, _, term in self.terms for role in term.detached}
        return tuple(sorted(named - wanted))

    @property
    def views(self) -> Mapping[str, View]:
        """Union of the terms' views."""
        return {role: view for _, _, term in self.terms for role, view in term.views.items()}

    @property
    def inversion(self) -> Inversion | None:
        """The terms' own, which must agree: they share one forward."""
        return next((term.inversion for _, _, term in self.terms), None)

    @property
    def rollout(self) -> Rollout | None:
        """The terms' own, which must agree: they share the sampled media."""
        return next((term.rollout for _, _, term in self.terms), None)

    @property
    def batch_coupled(self) -> bool:
        """True if any term couples samples."""
        return any(term.batch_coupled for _, _, term in self.terms)

    def initial_state(self) -> State:
        """States of the terms under their labels."""
        return {
            f"{label}/{key}": value
            for label, _, term in self.terms
            for key, value in term.initial_state().items()
        }

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]."""
        losses: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        states: State = {}
        outcomes = []
        for label, _, term in self.terms:
            own = {k.removeprefix(f"{label}/"): v for k, v in state.items() if k.startswith(f"{label}/")}
            outcomes.append(term(scores, labels, own, all_mean))
        named = [key for outcome in outcomes for key in outcome.metrics]
        shared = {key for key in named if named.count(key) > 1}
        for (label, weight, _), outcome in zip(self.terms, outcomes, strict=True):
            losses.append(weight * outcome.loss)
            metrics[f"{label}/loss"] = outcome.loss.detach()
            metrics |= {f"{label}/{key}" if key in shared else key: v for key, v in outcome.metrics.items()}
            states |= {f"{label}/{key}": value for key, value in outcome.state.items()}
        return Outcome(torch.stack(losses).sum(0), metrics, states)
