"""Held-out pairs of a denoiser at fixed noise levels, always with the same noise.

Training sees a pair at one random level, where errors of different levels differ a hundredfold. On a grid of
levels and noise that never changes, what moves from one evaluation to the next is the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mmalign.training.metrics import SQUARE, Means
from mmalign.training.optim import evaluating
from mmalign.training.step import Engine, Micro
from mmalign.types import LogProbs, derive_seed

PURPOSE = "heldout/level"  # the draws' own seed stream
PAIR = ("chosen", "rejected")

Errors = dict[str, list[float]]
"""Errors of the winner and the loser, means over the levels, by the id of the pair."""


@runtime_checkable
class Levelled(Protocol):
    """An adapter whose draws choose among so many noise levels, as integers from 0, in `timestep` [S, D]."""

    @property
    def num_noise_levels(self) -> int:
        """T."""

    def level_at(self, share: float) -> int:
        """The integer level at a share of those that draws choose from, 0 the least noisy of them."""


@dataclass(frozen=True)
class NoiseLevels:
    """The pairs and the levels, shares of the schedule in (0, 1) of which 1 is pure noise."""

    engine: Engine
    micros: tuple[Micro, ...]
    levels: tuple[float, ...]
    indices: tuple[int, ...]  # the same as integers
    with_reference: bool
    start: Errors | None = None  # filled by the first measurement; None where the reference stays as it is

    @property
    def pairs(self) -> int:
        """How many pairs are scored."""
        return sum(len(micro.items) for micro in self.micros)

    @property
    def cost(self) -> str:
        """What one measurement takes, in words."""
        scored = self.pairs * len(self.levels) * (4 if self.with_reference else 2)
        return f"{len(self.levels)} noise levels of {self.pairs} held-out pairs, {scored} responses scored"

    def saved(self) -> dict[str, Any]:
        """The errors at the start, and the levels that they are of, as plain values; nothing without them."""
        return {"levels": list(self.indices), "errors": dict(self.start)} if self.start else {}

    def resumed(self, saved: Mapping[str, Any]) -> NoiseLevels:
        """With the errors that an earlier part of the run saved; without where it had other levels."""
        known = saved.get("levels") == list(self.indices)
        return replace(self, start=dict(saved["errors"]) if known else None)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Means over pairs, on every process: at every level u "level/u/err_w" and "err_l" of the policy, and
        against a reference "ref_err_w", "ref_err_l" and "implicit_acc"; over all levels the same names
        without u, "Dw" and "Dl" with their deviation over pairs, and "pair_acc", the accuracy of a pair's
        mean errors.

        Dw is the winner's error minus the reference's, Dl the loser's. A pair is right where Dw < Dl, and a
        tie counts one half. With `start` also "rise_w" and "rise_l", how far the errors lie above those of
        the first measurement, their deviations, and "start_err_w" of that.
        """
        means, world = Means(), self.engine.world
        errors: list[dict[str, Tensor]] = []
        mine = self.micros[world.rank :: world.size]
        with evaluating(self.engine.adapter.policy):
            for micro in mine:
                found = [self._at(micro, number) for number in range(len(self.levels))]
                for level, values in zip(self.levels, found, strict=True):
                    means.add({f"level/{level:.3f}/{name}": value for name, value in values.items()})
                errors.append(_means(found))
                means.add(_over_levels(errors[-1]))
        if self.start is not None:
            if not self.start:
                self._begin([_by_pair(m, mean) for m, mean in zip(mine, errors, strict=True)])
            for micro, mean in zip(mine, errors, strict=True):
                means.add(_rises(micro, mean, self.start))
        named = means.read(world)
        return named | {"level/pairs": float(self.pairs)} if named else {}

    def _begin(self, parts: Sequence[Errors]) -> None:
        """The errors of every pair, on every process: another number of processes may resume the run."""
        assert self.start is not None
        for gathered in self.engine.world.gather(list(parts)):
            for part in gathered:
                self.start.update(part)

    def _at(self, micro: Micro, number: int) -> dict[str, Tensor]:
        """Every error of every pair [n] at one level."""
        theirs = self._errors(micro, number, "reference") if self.with_reference else None
        ours = self._errors(micro, number, "policy")
        found = {f"err_{side}": error for side, error in zip("wl", ours, strict=True)}
        if theirs is not None:
            found |= {f"ref_err_{side}": error for side, error in zip("wl", theirs, strict=True)}
            found["implicit_acc"] = _right(found)
        return found

    def _errors(self, micro: Micro, number: int, source: str) -> tuple[Tensor, Tensor]:
        engine, adapter = self.engine, self.engine.adapter
        assert isinstance(adapter, Levelled)
        batch = adapter.collate(micro.encoded, PAIR)
        seeds = [derive_seed(engine.seed, 0, item.id, f"{PURPOSE}/{number}") for item in micro.items]
        draw = dict(adapter.draw(batch, seeds))
        index = self.indices[number]
        draw["timestep"] = torch.full_like(draw["timestep"], index)
        scored: LogProbs = engine.scorer(batch, draw, frozenset(), source)
        chosen, rejected = (scored.take(batch.rows_of(role)).mean_error() for role in PAIR)
        return chosen, rejected


def _right(errors: dict[str, Tensor]) -> Tensor:
    gap = (errors["err_w"] - errors["ref_err_w"]) - (errors["err_l"] - errors["ref_err_l"])
    return 0.5 * (1.0 - torch.sign(gap))


def _means(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Means of every pair over the levels, [n] each."""
    return {name: torch.stack([one[name] for one in found]).mean(0) for name in found[0]}


def _by_pair(micro: Micro, mean: Mapping[str, Tensor]) -> Errors:
    both = torch.stack([mean["err_w"], mean["err_l"]], 1).tolist()
    return dict(zip((item.id for item in micro.items), both, strict=True))


def _rises(micro: Micro, mean: Mapping[str, Tensor], start: Errors) -> dict[str, Tensor]:
    """How far the errors of the pairs lie above their start, [n] each; NaN for a pair that has none."""
    unknown = [math.nan, math.nan]
    before = torch.tensor([start.get(item.id, unknown) for item in micro.items], device=mean["err_w"].device)
    found = {"level/start_err_w": before[:, 0]}
    for place, side in enumerate("wl"):
        rise = mean[f"err_{side}"] - before[:, place]
        found |= {f"level/rise_{side}": rise, f"level/rise_{side}{SQUARE}": rise.double() ** 2}
    return found


def _over_levels(mean: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means over the levels, with what is only told of them."""
    if "ref_err_w" in mean:
        mean["pair_acc"] = _right(mean)
        for side in "wl":
            gap = mean[f"err_{side}"] - mean[f"ref_err_{side}"]
            mean |= {f"D{side}": gap, f"D{side}{SQUARE}": gap.double() ** 2}
    return {f"level/{name}": values for name, values in mean.items()}


def noise_levels(engine: Engine, micros: Sequence[Micro], levels: int, most: int) -> NoiseLevels | None:
    """The grid of a run: `levels` levels spread over those that train, and the first `most` held-out pairs;
    None where there is nothing to measure: no levels asked for, no noise levels in the model, no pairs in
    rows or objective.

    A reference whose scores come from a cache was not scored at these levels: then the policy's errors only.
    One that follows the policy hides what both do alike: then the errors are compared with their start, too.
    """
    policy = engine.objective.roles.get("policy", ())
    if not levels or not isinstance(engine.adapter, Levelled) or not set(PAIR) <= set(policy):
        return None
    kept: list[Micro] = []
    left = most
    for micro in micros:
        places = [i for i in range(len(micro.items)) if _is_pair(micro, i)][:left]
        if places:
            items, encoded = [micro.items[i] for i in places], [micro.encoded[i] for i in places]
            kept.append(replace(micro, items=items, encoded=encoded))
            left -= len(places)
    if not kept:
        return None
    adapter = engine.adapter
    last = max(1, adapter.num_noise_levels - 1)
    named: dict[int, float] = {}  # a few-step model may have fewer levels than were asked for
    for place in range(levels):
        share = (place + 0.5) / levels
        index = adapter.level_at(share)
        named[index] = share if index == round(share * last) else index / last
    indices, shares = tuple(sorted(named)), tuple(named[index] for index in sorted(named))
    frozen = engine.objective.roles.get("reference", ())
    live = engine.cached is None and set(PAIR) <= set(frozen)
    start: Errors | None = {} if live and engine.moving is not None else None
    return NoiseLevels(engine, tuple(kept), shares, indices, live, start)


def _is_pair(micro: Micro, place: int) -> bool:
    """One row of either role: lists of responses are no pair."""
    roles = [row.role for row in micro.encoded[place].rows if row.role in PAIR]
    return sorted(roles) == sorted(PAIR)
