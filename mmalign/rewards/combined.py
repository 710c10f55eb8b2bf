"""Several judges as one: their sum, their agreement, or their votes; every part's score is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmalign._build import build_named, build_plain, refuse_unknown
from mmalign._names import KINDS, class_of
from mmalign.rewards._batch import BatchJudge
from mmalign.rewards._reads import WORDS, reads_of
from mmalign.rewards._scoring import TOTAL, ready, score_readable
from mmalign.types import Judge, Message, Part, PixelReward, UserError

Verdict = Literal["first", "second", "tie"]

_HALF_WAY = 1e-6  # shares of weight nearer to a half than this are a half


@dataclass(frozen=True)
class _Share:
    """How a part's score s enters: s, log sigmoid(s) or (s - mean) / std; and how much it counts."""

    weight: float = 1.0
    transform: Literal["none", "log_sigmoid", "standardise"] = "none"
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        if self.weight == 0:
            raise ValueError("weight: must not be 0; remove the part")
        given = self.mean is not None and self.std is not None
        if self.transform == "standardise" and not given:
            raise ValueError("mean: transform standardise needs mean and std of the part's scores")
        if self.transform != "standardise" and (self.mean is not None or self.std is not None):
            raise ValueError(f"mean: mean and std are not read with transform {self.transform}; remove them")
        if self.std is not None and self.std <= 0:
            raise ValueError(f"std: must be above 0, got {self.std}")

    def transformed(self, scores: Tensor) -> Tensor:
        """The part's scores as they enter, before the weight."""
        if self.transform == "log_sigmoid":
            scores = F.logsigmoid(scores)
        elif self.mean is not None and self.std is not None:
            scores = (scores - self.mean) / self.std
        return scores


@dataclass(frozen=True)
class _Member:
    name: str
    judge: Judge
    share: _Share


@dataclass(frozen=True)
class Combined(BatchJudge):
    """Several judges in one score: all that they add, the least of it, or the middle of their votes.

    Each part is a judge with `weight`, 1 by default and negative where less is better, and `transform`: none,
    log_sigmoid, or standardise with `mean` and `std` of its scores. The total is, by `rule`: sum, the sum of
    weight times transformed score; and, the smallest of these; votes, the median of the transformed scores,
    each with its weight. Two responses are compared (`compare`) by that sum; by whether all parts prefer the
    same one; or by the weighted majority of the parts. Under every rule a response that all parts prefer has
    the larger total. Every part's own score is shown under its name. Where the verdict of a part cannot be
    read there is none.
    """

    # judges' sections, each with `weight` and `transform` (none, log_sigmoid, standardise by `mean`, `std`)
    parts: tuple[dict[str, Any], ...] = field(metadata={"judges": True})
    # the weighted sum, the least part, or the median of weighted votes
    rule: Literal["sum", "and", "votes"] = "sum"

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts: name at least one judge")
        if self.rule != "sum" and len(self.parts) < 2:
            raise ValueError(f"parts: rule {self.rule} needs at least two, got 1")
        _ = self.members

    @property
    def unchecked(self) -> bool:
        """True if a part's scores were not checked against published numbers."""
        # a judge need not say
        return any(bool(getattr(member.judge, "unchecked", False)) for member in self.members)

    @cached_property
    def members(self) -> tuple[_Member, ...]:
        """The parts, built; several of one kind are numbered."""
        own = [one.name for one in fields(_Share)]
        names = [str(part.get("name")).rpartition(":")[2] for part in self.parts]
        found = []
        for place, part in enumerate(self.parts):
            where = f"parts[{place}]"
            if isinstance(part.get("name"), str):
                cls: Any = class_of(KINDS["judge"], part["name"], where, allow_code=True)
                refuse_unknown(part, ["name", *own, *(f.name for f in fields(cls) if f.init)], where)
            share = build_plain(_Share, {k: v for k, v in part.items() if k in own}, where)
            section = {k: v for k, v in part.items() if k not in own}
            # whether code outside the package may be named was decided before this section was built
            judge = build_named(KINDS["judge"], section, where, allow_code=True)
            name = names[place] if names.count(names[place]) == 1 else f"{names[place]}_{place + 1}"
            found.append(_Member(name, judge, share))
        return tuple(found)

    @property
    def reads(self) -> frozenset[str]:
        """The kinds of responses that every part reads; a part that does not say reads all."""
        found = frozenset(WORDS)
        for member in self.members:
            own = reads_of(member.judge)
            found &= found if own is None else own
        return found

    def ready(self) -> None:
        """Load every part. Raises UserError if one cannot be had."""
        for member in self.members:
            ready(member.judge)

    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        """The total of every response, and every part's own score by the part's name. Raises UserError where
        the verdict of a part cannot be read."""
        found = []
        for number, one in enumerate(self.verdicts(prompts, responses), 1):
            if one is None:
                raise UserError(f"combined: the verdict of a part on response {number} cannot be read")
            found.append(one)
        return found

    def verdicts(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float] | None]:
        """The same, but None where a part that writes its verdicts wrote one that cannot be read."""
        return self._scored(prompts, responses, None)

    def score_steps(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part], timesteps: Sequence[int]
    ) -> list[Mapping[str, float] | None]:
        """The same of responses predicted from these noise levels, of which the parts that take them are
        told."""
        return self._scored(prompts, responses, timesteps)

    def _scored(
        self,
        prompts: Sequence[tuple[Message, ...]],
        responses: Sequence[Part],
        timesteps: Sequence[int] | None,
    ) -> list[Mapping[str, float] | None]:
        own = [
            [
                None if one is None else one[TOTAL]
                for one in score_readable(member.judge, prompts, responses, timesteps=timesteps)
            ]
            for member in self.members
        ]
        places = [i for i in range(len(responses)) if all(values[i] is not None for values in own)]
        read = [[value for i in places if (value := values[i]) is not None] for values in own]
        totals = self._total(torch.tensor(read, dtype=torch.float64).reshape(len(read), -1)).tolist()
        found: list[Mapping[str, float] | None] = [None] * len(responses)
        for n, (place, total) in enumerate(zip(places, totals, strict=True)):
            parts = {m.name: values[n] for m, values in zip(self.members, read, strict=True)}
            found[place] = {TOTAL: total, **parts}
        return found

    def reward(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """Totals [B] with a graph of pictures [B, 3, H, W] in [0, 1].

        Raises UserError for a part that gives no gradient.
        """
        own = []
        for member in self.members:
            if not isinstance(member.judge, PixelReward):
                raise UserError(f"combined: {member.name} gives no gradient; leave it out of the parts")
            own.append(member.judge.reward(pixels, captions))
        return self._total(torch.stack(own))

    def compare(self, prompt: tuple[Message, ...], first: Part, second: Part) -> Verdict:
        """Which of two responses to one prompt is better by the rule."""
        one, other = self.score_many([prompt, prompt], [first, second])
        return self.prefer(one, other)

    def prefer(self, first: Mapping[str, float], second: Mapping[str, float]) -> Verdict:
        """Which of two responses is better by the rule, from the scores that this judge gave them."""
        if self.rule == "sum":
            balance = first[TOTAL] - second[TOTAL]
        else:
            signs = [
                math.copysign(1, m.share.weight) * ((a > b) - (a < b))
                for m in self.members
                for a, b in [(first[m.name], second[m.name])]
            ]
            weights = [abs(m.share.weight) for m in self.members]
            balance = math.fsum(s * w for s, w in zip(signs, weights, strict=True))
            if self.rule == "and" and abs(math.fsum(signs)) < len(signs):
                balance = 0
        return "tie" if balance == 0 else "first" if balance > 0 else "second"

    def _total(self, own: Tensor) -> Tensor:
        """Totals [B] of the parts' scores [P, B]."""
        entered = torch.stack([m.share.transformed(v) for m, v in zip(self.members, own, strict=True)])
        weights = torch.tensor([m.share.weight for m in self.members], dtype=own.dtype, device=own.device)
        if self.rule == "votes":
            return _median(entered * weights.sign()[:, None], weights.abs())
        weighted = entered * weights[:, None]
        return weighted.sum(0) if self.rule == "sum" else weighted.amin(0)


def _median(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted median [B] of values [P, B]: half of the weight lies on either side. Where a half ends
    exactly between two values it is their mean."""
    ordered, order = values.sort(0)
    shares = (weights / weights.sum())[order].cumsum(0)
    low, high = ((shares < 0.5 - _HALF_WAY).sum(0), (shares <= 0.5 + _HALF_WAY).sum(0))
    return ordered.gather(0, torch.stack([low, high.clamp(max=len(weights) - 1)])).mean(0)
