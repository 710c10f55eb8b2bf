"""Held-out pairs of a denoiser at fixed noise levels, always with the same noise.

Training sees a pair at one random level, where errors of different levels differ a hundredfold. On a grid of
levels and noise that never changes, what moves from one evaluation to the next is the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mmalign.training.metrics import SQUARE, Means
from mmalign.training.optim import evaluating
from mmalign.training.step import Engine, Micro
from mmalign.types import LogProbs, derive_seed

PURPOSE = "heldout/level"  # the draws' own seed stream
PAIR = ("chosen", "rejected")


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

    @property
    def pairs(self) -> int:
        """How many pairs are scored."""
        return sum(len(micro.items) for micro in self.micros)

    @property
    def cost(self) -> str:
        """What one measurement takes, in words."""
        scored = self.pairs * len(self.levels) * (4 if self.with_reference else 2)
        return f"{len(self.levels)} noise levels of {self.pairs} held-out pairs, {scored} responses scored"

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Means over pairs, on every process: at every level u "level/u/err_w" and "err_l" of the policy, and
        against a reference "ref_err_w", "ref_err_l" and "implicit_acc"; over all levels the same names
        without u, "Dw" and "Dl" with their deviation over pairs, and "pair_acc", the accuracy of a pair's
        mean errors.

        Dw is the winner's error minus the reference's, Dl the loser's. A pair is right where Dw < Dl, and a
        tie counts one half.
        """
        means, world = Means(), self.engine.world
        with evaluating(self.engine.adapter.policy):
            for micro in self.micros[world.rank :: world.size]:
                found = [self._at(micro, number) for number in range(len(self.levels))]
                for level, values in zip(self.levels, found, strict=True):
                    means.add({f"level/{level:.3f}/{name}": value for name, value in values.items()})
                means.add(_over_levels(found))
        named = means.read(world)
        return named | {"level/pairs": float(self.pairs)} if named else {}

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


def _over_levels(found: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means of every pair over the levels, [n] each, with what is only told of a mean."""
    mean = {name: torch.stack([one[name] for one in found]).mean(0) for name in found[0]}
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
    return NoiseLevels(engine, tuple(kept), shares, indices, live)


def _is_pair(micro: Micro, place: int) -> bool:
    """One row of either role: lists of responses are no pair."""
    roles = [row.role for row in micro.encoded[place].rows if row.role in PAIR]
    return sorted(roles) == sorted(PAIR)
