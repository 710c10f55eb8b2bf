"""Metrics that every run logs, their exact means and deviations over samples, steps and processes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mmalign.training.world import World
from mmalign.types import LogProbs, Outcome, Scores

_BINS = 4
SQUARE = "/square"
"""Ends the name of a metric's squares, from which its deviation over samples is read."""


def sample_metrics(scores: Scores, outcome: Outcome) -> dict[str, Tensor]:
    """Per-sample metrics {name: [n]} of one scored batch; NaN marks samples a metric does not apply to.

    For every policy role: log-likelihood, its absolute change against the reference, length. For a surrogate:
    the prediction errors of policy and reference instead of a length, what `_denoising` says of a pair, and
    accuracy by quarter of the noise schedule (t1 is the least noisy). Scores of a reward model are no
    likelihoods: its objective logs them.
    """
    metrics = {"loss": outcome.loss.detach(), **outcome.metrics}
    for role, ours in scores["policy"].items():
        if ours.kind == "reward":
            continue
        theirs = scores.get("reference", {}).get(role)
        metrics[f"logp/{role}"] = ours.total().detach()
        if theirs is not None:
            metrics[f"logp_change/{role}"] = ours.ratio(theirs).detach()
        if ours.kind == "surrogate":
            metrics[f"error/{role}"] = ours.mean_error().detach()
            if theirs is not None and theirs.error is not None:
                metrics[f"reference_error/{role}"] = theirs.mean_error()
        else:
            metrics[f"length/{role}"] = ours.length.detach()
    metrics |= _denoising(metrics)
    accuracy = metrics.get("implicit_acc")
    first = next(iter(scores["policy"].values()), None)
    if accuracy is not None and first is not None and first.timestep is not None:
        metrics |= _by_timestep(accuracy, first)
    return metrics


def _denoising(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a pair's errors, [n] each: `Dw` and `Dl`, how far the winner's and the loser's lie above the
    reference's (both rising is a collapse); of the objective's logit z, the reward margin, its value, its
    square (for the deviation), and the weight sigmoid(-z) of a pair's gradient in the logistic loss."""
    found = {}
    for name, role in (("Dw", "chosen"), ("Dl", "rejected")):
        if f"reference_error/{role}" in metrics:
            found[name] = metrics[f"error/{role}"] - metrics[f"reference_error/{role}"]
    margin = metrics.get("reward/margin")
    if found and margin is not None:
        found |= {"z": margin, f"z{SQUARE}": margin.double() ** 2, "grad_weight": torch.sigmoid(-margin)}
    return found


def _by_timestep(accuracy: Tensor, scored: LogProbs) -> dict[str, Tensor]:
    assert scored.timestep is not None
    place = (scored.timestep.mean(-1) * _BINS).long().clamp(0, _BINS - 1)
    nothing = torch.full_like(accuracy, torch.nan)
    return {f"implicit_acc/t{i + 1}": torch.where(place == i, accuracy, nothing) for i in range(_BINS)}


class Means:
    """Sums and counts by name, kept on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add per-sample values {name: [n]}; NaN entries are left out."""
        for name, values in metrics.items():
            known = ~torch.isnan(values)
            pair = torch.stack([torch.where(known, values, 0.0).sum().double(), known.sum().double()])
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def totals(self, world: World) -> dict[str, tuple[float, float]]:
        """Sum and count of every name over all processes."""
        total: dict[str, tuple[float, float]] = {}
        held = {}
        if self._sums:
            stacked = torch.stack(list(self._sums.values())).tolist()  # one transfer for all names
            held = dict(zip(self._sums, stacked, strict=True))
        for part in world.gather(held):
            for name, (value, count) in part.items():
                before = total.get(name, (0.0, 0.0))
                total[name] = (before[0] + value, before[1] + count)
        return total

    def read(self, world: World) -> dict[str, float]:
        """Mean of every name over all processes, and start anew; of a mean square the deviation, "x/std"."""
        totals = self.totals(world)
        self._sums.clear()
        means = {name: value / count for name, (value, count) in totals.items() if count}
        found = {}
        for name, value in means.items():
            if not name.endswith(SQUARE):
                found[name] = value
                continue
            plain = name.removesuffix(SQUARE)
            found[f"{plain}/std"] = math.sqrt(max(0.0, value - means[plain] ** 2))
        return found

    def restore(self, totals: Mapping[str, tuple[float, float]], device: torch.device) -> None:
        """Continue from saved totals; only one process may do so."""
        self._sums = {
            name: torch.tensor(pair, dtype=torch.float64, device=device) for name, pair in totals.items()
        }
