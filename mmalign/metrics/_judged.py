"""Verdicts of a judge that a metric names: many at once where it can, None for one that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

from mmalign._build import build_named
from mmalign._names import KINDS, class_of, name_of
from mmalign.metrics._reading import check_paths
from mmalign.metrics._seam import Metric
from mmalign.rewards._scoring import TOTAL, ready, score_readable
from mmalign.types import Judge, Message, Part, UserError


@dataclass(frozen=True)
class Scale:
    """The numbers that a metric's judge gives, `low` to `high`: whole ones alone, any, or (None) either way.
    `template` and `pattern` are how `llm_judge` asks for them and reads them where the config says nothing;
    without a template the config must say it."""

    low: float
    high: float
    whole: bool | None
    template: str | None = None
    pattern: str | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """low and high."""
        return self.low, self.high

    def settings(self) -> dict[str, Any]:
        """The fields of `llm_judge` that follow from the scale."""
        return {"low": self.low, "high": self.high, "whole": bool(self.whole)}


@runtime_checkable
class _Scaled(Protocol):
    """A judge that tells what it takes for a verdict."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    @property
    def whole(self) -> bool: ...


def _asked_by_template() -> type:
    return class_of(KINDS["judge"], "llm_judge")


def judge_of(section: Mapping[str, Any], scale: Scale, metric: str) -> Judge:
    """The judge of a section, asked for the metric's scale where it can be and the section says nothing else.

    Raises UserError for a judge that tells another scale. Whether code outside the package may be named was
    decided when the config was read.
    """
    name = section.get("name")
    asked = isinstance(name, str) and class_of(KINDS["judge"], name, "judge", True) is _asked_by_template()
    if asked and "template" in section:
        section = {**scale.settings(), **section}
    elif asked and scale.template is not None:
        pattern = {} if scale.pattern is None else {"pattern": scale.pattern}
        section = {**scale.settings(), "template": scale.template, **pattern, **section}
    built: Judge = build_named(KINDS["judge"], section, "judge", allow_code=True)
    if isinstance(built, _Scaled):
        told = built.low, built.high, built.whole if scale.whole is not None else None
        if told != (*scale.bounds, scale.whole) or (asked and "template" not in section):
            needed = ", ".join(f"{key}: {_said(value)}" for key, value in scale.settings().items())
            ways = ", or leave all of these out" if scale.template else ""
            raise UserError(
                f"judge: low: {built.low:g}, high: {built.high:g}, whole: {str(built.whole).lower()} and its "
                f"template are not {metric}'s scale; set {needed} and a template that asks for that{ways}"
            )
    return built


def _said(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


@dataclass(frozen=True)
class JudgedMetric(Metric):
    """What metrics share whose answers a judge grades: files, the judge's section, and the judge itself."""

    unchecked: ClassVar[bool] = True
    tells: ClassVar[frozenset[str]] = frozenset()
    """What the judge is told besides the prompt, which holds all else that it needs."""
    scale: ClassVar[Scale] = Scale(0.0, 1.0, whole=False)
    """What its numbers are."""

    questions: str  # the benchmark's file
    images: str  # folder of the pictures
    # section of a reward that grades on the metric's scale
    judge: dict[str, Any] = field(metadata={"section": "judge"})

    def __post_init__(self) -> None:
        check_paths(questions=self.questions, images=self.images)

    @cached_property
    def asked_judge(self) -> Judge:
        """The judge. Raises UserError for one that tells another scale than the metric's."""
        return judge_of(self.judge, self.scale, name_of(KINDS["metrics"], type(self)))

    def ready(self) -> None:
        """Load the judge, so that one that cannot be had is refused before anything is generated, and so is
        one that tells another scale."""
        ready(self.asked_judge, self.tells)


def verdicts(
    judge: Judge,
    names: Sequence[str],
    prompts: Sequence[tuple[Message, ...]],
    answers: Sequence[str],
    bounds: tuple[float, float],
    told: Sequence[Mapping[str, str]] | None = None,
) -> list[dict[str, float] | None]:
    """Named scores of every answer, in order; None where the judge wrote what cannot be read. `told`: what is
    known of every question, for judges that want it.

    Raises UserError naming the question for a score out of bounds: the judge asks for another scale.
    """
    responses = [Part("text", text) for text in answers]
    found = score_readable(judge, prompts, responses, names, told)
    low, high = bounds
    for name, one in zip(names, found, strict=True):
        if one is not None and not low <= one[TOTAL] <= high:
            raise UserError(
                f"question {name}: the judge's score is {one[TOTAL]:g}; this metric needs {low:g} to "
                f"{high:g}, so ask the judge for that scale"
            )
    return found
