"""Objectives a user might write, named in configs as own:Class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class ListMLE(Objective):
    """Plackett-Luce over the responses of a list, best first by their score (arXiv 2305.18290, A.3)."""

    beta: float = 0.1
    roles = {"policy": ("responses",), "reference": ("responses",)}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        ours, theirs = scores["policy"]["responses"], scores["reference"]["responses"]
        h = self.beta * ours.ratio(theirs)
        rank = labels["responses.score"]
        losses = []
        for sample in range(int(ours.sample.max()) + 1):
            rows = torch.nonzero(ours.sample == sample).flatten()
            ordered = h[rows[torch.argsort(rank[rows], descending=True)]]
            losses.append(sum(torch.logsumexp(ordered[k:], 0) - ordered[k] for k in range(len(ordered) - 1)))
        return Outcome(torch.stack(losses), {}, state)


@dataclass(frozen=True)
class KLAnchor(Objective):
    """KL(reference || policy) on the chosen response, over whole distributions; a running mean as state."""

    roles = {"policy": ("chosen",), "reference": ("chosen",)}
    needs = frozenset({"distribution"})

    def initial_state(self) -> State:
        return {"mean": torch.zeros(()), "steps": torch.zeros(())}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        ours, theirs = scores["policy"]["chosen"], scores["reference"]["chosen"]
        assert ours.distribution is not None and theirs.distribution is not None
        kl = (ours.distribution.kl_from(theirs.distribution) * ours.mask).sum(-1)
        steps = state["steps"] + 1
        mean = state["mean"] + (kl.detach().mean() - state["mean"]) / steps
        return Outcome(kl - 0.1 * ours.mean(), {"kl": kl.detach()}, {"mean": mean, "steps": steps})


@dataclass(frozen=True)
class Poisoned(Objective):
    """SFT whose loss is NaN for one sample id of the data's margin label."""

    poison: float = 0.3
    roles = {"policy": ("chosen",)}
    fields = ("margin",)

    def initial_state(self) -> State:
        return {"good_steps": torch.zeros(())}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        loss = scores["policy"]["chosen"].nll()
        bad = (labels["margin"] - self.poison).abs() < 1e-6
        return Outcome(loss * torch.where(bad, torch.nan, 1.0), {}, {"good_steps": state["good_steps"] + 1})
