"""Section `online` of a config: training on what the policy itself samples, and its judge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmalign._build import build_named, build_plain, named_tree, plain_tree
from mmalign._names import KINDS, class_of, names
from mmalign.blind.answers import Blind
from mmalign.types import UserError


@dataclass(frozen=True)
class Online:
    """Rounds: the policy answers prompts of the data, a judge scores the answers, and so many optimizer steps
    train on them before the next round. Of section `data` only the prompts are read, unless `offline` mixes
    its pairs in."""

    judge: Any = None  # a scorer from rewards/, or package.module:Class; null: only with offline 1
    prompts: int = 16  # asked in a round; more, as many again, until there are samples for one step
    # answers per prompt; of a path that branches, the branches of each step; with offline 1 left as it is
    n: int = 2
    steps: int = 1  # optimizer steps per round
    batch: int = 8  # prompts that are answered and judged together
    # how judged answers become pairs, as in builder best_of_n; null: best_worst
    strategy: Literal["best_worst", "adjacent", "all"] | None = None
    min_gap: float | None = None  # least distance of a pair's scores; null: 0, and equal ones make no pair
    unbranched: int | None = None  # steps of a path before its first branch; null: 4
    # chance of a prompt that its own pair of the data trains, and no answers are sampled (Mixed-DPO: 0.5);
    # with section blind it may be 1, which samples and judges nothing
    offline: float | None = None
    # for objective bdhs: every pair of a round has an answer that the policy writes with most of the picture
    # hidden from it; null: pairs of the data keep theirs, and sampled ones train as by dpo
    blind: Blind | None = None

    def __post_init__(self) -> None:
        for name in ("prompts", "n", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")
        if self.min_gap is not None and not (math.isfinite(self.min_gap) and self.min_gap >= 0):
            raise ValueError(f"min_gap: must be 0 or more and finite, got {self.min_gap}")
        if self.offline is not None and not 0 < self.offline < 1 and not self.data_alone:
            raise ValueError(f"offline: must lie in (0, 1), got {self.offline}; null: no pairs of the data")
        if self.unbranched is not None and self.unbranched < 0:
            raise ValueError(f"unbranched: must be 0 or more, got {self.unbranched}")

    @property
    def data_alone(self) -> bool:
        """True if all pairs are the data's and nothing in them is new but what is written blind."""
        return self.offline == 1 and self.blind is not None


def online_from(value: Any, where: str, allow_code: bool) -> Online:
    """The section from plain values. Raises UserError naming the field and the rule."""
    plain = {k: v for k, v in value.items() if k != "judge"} if isinstance(value, Mapping) else value
    built: Online = build_plain(Online, plain, where)
    judge = value.get("judge")
    if built.data_alone:
        if judge is not None:
            raise UserError(f"{where}.judge: nothing is sampled and judged with offline 1; set it to null")
        return built
    if judge is None:
        raise UserError(f"{where}.judge: this field is required")
    named = {"name": judge} if isinstance(judge, str) else judge
    return dataclasses.replace(built, judge=build_named(KINDS["judge"], named, f"{where}.judge", allow_code))


def online_tree(section: Online | None) -> dict[str, Any] | None:
    """The section as plain values; `online_from` gives the same section back."""
    if section is None:
        return None
    plain = plain_tree(dataclasses.replace(section, judge=None))
    return plain if section.judge is None else {**plain, "judge": named_tree(KINDS["judge"], section.judge)}


def online_schema() -> dict[str, Any]:
    """JSON Schema of the section."""
    from mmalign._schema import describe, named_schema, or_null, plain_schema

    schema, kind = plain_schema(Online), KINDS["judge"]
    judge = named_schema(kind, [(name, class_of(kind, name)) for name in names(kind)])
    schema["properties"]["judge"] = {"anyOf": [judge, {"type": "string"}, {"type": "null"}]}
    describe(schema, Online)
    schema["required"] = [*schema.get("required", []), "judge"]
    return or_null(schema)
