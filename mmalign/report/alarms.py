"""What a reader of a run must not overlook, found by rules on its record, curves and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mmalign.evaluation.comparison import TOTAL, Comparison
from mmalign.report.curves import number
from mmalign.report.series import Metrics, Series
from mmalign.training.record import RunRecord

FALLING = 0.5
"""A larger share of chosen responses that lost likelihood is worth a warning."""
RISING = 1.05
"""An error that grew by this factor has risen."""


@dataclass(frozen=True)
class Alarm:
    """One finding. "alarm": the result is probably not usable; "caution": look before trusting it."""

    level: Literal["alarm", "caution"]
    text: str


def find_alarms(record: RunRecord, metrics: Metrics, comparison: Comparison | None) -> list[Alarm]:
    """All findings, the serious ones first."""
    found = [*_of_the_run(record, metrics), *_of_the_curves(metrics)]
    if comparison is not None:
        found += [*_of_its_age(record, comparison), *_of_the_evaluation(comparison)]
    return sorted(found, key=lambda alarm: alarm.level != "alarm")


def _of_the_run(record: RunRecord, metrics: Metrics) -> list[Alarm]:
    found = []
    for name, count in record.skipped.items():
        if "NaN" in name:
            found.append(Alarm("alarm", f"{count} {name}: skipped, the weights did not change in them"))
    both: list[tuple[str, Mapping[str, Series]]] = [("", metrics.train), ("held-out ", metrics.heldout)]
    for word, group in both:
        for name, series in group.items():
            if series.broken:
                times = f"{len(series.broken)} times, first at step {series.broken[0]}"
                found.append(Alarm("alarm", f"{word}{name} is not finite {times}"))
    if record.status != "finished":
        found.append(Alarm("caution", f"the run is {record.status} at step {record.step}, not finished"))
    return found


def _of_the_curves(metrics: Metrics) -> list[Alarm]:
    found = []
    risen = _risen_errors(metrics)
    if risen:
        found.append(
            Alarm(
                "alarm",
                f"collapse: the denoising error rises for every role ({risen}); lower train.lr",
            )
        )
    falling = metrics.at_end("chosen_falling")
    if falling is not None and falling[0] > FALLING:
        found.append(
            Alarm(
                "caution",
                f"chosen falling: at the end {falling[0]:.0%} of the {falling[1]} chosen responses are less "
                "likely than under the reference; the margin may come from the rejected side alone",
            )
        )
    accuracy = metrics.heldout.get("implicit_acc")
    if accuracy is not None and accuracy.values and accuracy.last < 0.5:
        found.append(
            Alarm("caution", f"held-out implicit accuracy ends at {accuracy.last:.0%}, below a coin's 50%")
        )
    loss = metrics.heldout.get("loss")
    if loss is not None and len(loss.values) > 1 and loss.last > loss.first:
        found.append(
            Alarm(
                "caution", f"held-out loss ends above its start: {number(loss.first)} to {number(loss.last)}"
            )
        )
    return found


def _risen_errors(metrics: Metrics) -> str:
    """In words, errors that rose in every role: above the reference on equal draws, or since the start."""
    listed = []
    for name in metrics.names:
        head, slash, role = name.partition("/")
        if head != "error" or not slash:
            continue
        after, before = metrics.at_end(name), metrics.at_end(f"reference_error/{role}")
        if after is None:
            continue
        held = after[1] == "held-out"
        if before is None or before[1] != after[1]:
            start = metrics.heldout[name].first if held else metrics.train[name].start
        else:
            start = before[0]
        if not after[0] > RISING * start:
            return ""
        listed.append(f"{role} {number(start)} to {number(after[0])}, {after[1]}")
    return "; ".join(listed)


def _of_its_age(record: RunRecord, comparison: Comparison) -> list[Alarm]:
    """An evaluation of weights that are no longer the run's. The record of a running one lags behind."""
    step, now = comparison.step, record.step
    if step is None or step == now or (step > now and record.status == "running"):
        return []
    return [Alarm("caution", f"evaluated at step {step}, the run is at {now}: evaluate again")]


def _of_the_evaluation(comparison: Comparison) -> list[Alarm]:
    rate = comparison.win_rate
    if rate is None:
        return []
    found = []
    interval = f"{rate.rate:.0%}, 95% interval {rate.low:.0%} to {rate.high:.0%}"
    if rate.high < 0.5:
        found.append(Alarm("alarm", f"the tuned model is worse than the base: win rate {interval}"))
    elif rate.low <= 0.5:
        found.append(
            Alarm("caution", f"the win rate cannot be told from chance on {rate.num} prompts: {interval}")
        )
    if rate.ties >= 0.5 and rate.low <= 0.5:
        found.append(
            Alarm(
                "caution",
                f"{rate.ties:.0%} of the prompts are ties; did the trained weights reach the model?",
            )
        )
    for name, means in comparison.means.items():
        if name == TOTAL or means.high is None or means.low is None:
            continue
        change = f"{number(means.base)} to {number(means.tuned)}"
        if name in comparison.costs and means.low > 0:
            found.append(Alarm("caution", f"{name} rose from {change}: is the total gained at its expense?"))
        if name not in comparison.costs and means.high < 0:
            found.append(Alarm("caution", f"{name} fell from {change}: is the total gained at its expense?"))
    return found
