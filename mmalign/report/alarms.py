"""What a reader of a run must not overlook, found by rules on its record, curves and evaluation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmalign.evaluation.changes import apart
from mmalign.evaluation.comparison import TOTAL, Comparison
from mmalign.report.plot import number
from mmalign.report.series import Metrics, Series
from mmalign.training.collapse import BOTH, SURE, WINNER, Gap, signs
from mmalign.training.record import RunRecord

FALLING = 0.5
"""A larger share of chosen responses that lost likelihood is worth a warning."""
RISING = 1.05
"""An error that grew by this factor has risen."""


_CURE = "a lower train.lr, fewer steps or a safeguard for the winner helps"


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
    found += _of_the_gaps(metrics)
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


def _of_the_gaps(metrics: Metrics) -> list[Alarm]:
    """The winner's and the loser's error against the reference, or against the start where that moves, by the
    rules of `training/collapse.py` where the run measured fixed noise levels, and else by thirds of its
    curves."""
    gaps = _gaps(metrics)
    if len(gaps) < 2:
        return _of_the_thirds(metrics)
    last, shown = gaps[-1], signs(gaps)
    since = {sign: _since(gaps, sign) for sign in shown}
    found = []
    if BOTH in shown:
        large = last.winner > (RISING - 1) * last.reference
        words = f"{last.both} since step {since[BOTH]:g}, at fixed noise levels: "
        found.append(Alarm("alarm" if large else "caution", words + f"{last.words}; {_CURE}"))
    elif WINNER in shown:
        words = f"the winner's error has stayed above {last.base} since step {since[WINNER]:g}: "
        found.append(Alarm("caution", words + f"{last.words}; {_CURE}"))
    return found


def _since(gaps: Sequence[Gap], sign: str) -> float:
    """The evaluation at which a sign that holds at the end began to hold without a break."""
    first = len(gaps)
    while first > 1 and sign in signs(gaps[:first]):
        first -= 1
    return gaps[first].step


def _gaps(metrics: Metrics) -> list[Gap]:
    """Every evaluation at fixed noise levels with a reference."""
    at: dict[float, dict[str, float]] = {}
    for name, series in metrics.heldout.items():
        for step, value in zip(series.steps, series.values, strict=True):
            at.setdefault(step, {})[name] = value
    found = [Gap.of(int(step), values) for step, values in sorted(at.items())]
    return [gap for gap in found if gap is not None]


def _of_the_thirds(metrics: Metrics) -> list[Alarm]:
    """Training curves are noisy: the last third must lie above 0 on average, and above the first third."""
    thirds = {}
    for name in ("Dw", "Dl"):
        series = metrics.train.get(name)
        if series is None or len(series.values) < 9:
            return []
        size = len(series.values) // 3
        first, last = (statistics.fmean(part) for part in (series.values[:size], series.values[-size:]))
        spread = statistics.stdev(series.values[-size:]) / math.sqrt(size)
        thirds[name] = (first, last, last > SURE * spread and last > first)
    if not thirds["Dw"][2]:
        return []
    rises = ", ".join(f"{name} {number(a)} to {number(b)}" for name, (a, b, _) in thirds.items())
    both = "both errors rise" if thirds["Dl"][2] else "the winner's error rises"
    words = f"{both} against the reference from the first to the last third of the run ({rises}); {_CURE}"
    return [Alarm("caution", words)]


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
    return found + _of_other_scores(comparison)


def _of_other_scores(comparison: Comparison) -> list[Alarm]:
    """Scores beside the deciding one that got worse: by their win rate, or by their mean."""
    found, rates = [], comparison.win_rates
    for name, means in comparison.means.items():
        if name == TOTAL:
            continue
        rate, cost = rates[name], name in comparison.costs
        end = means.low if cost else means.high
        worse = end is not None and (end > 0 if cost else end < 0)
        lost = rate.high < 0.5
        if not (worse or lost):
            continue
        moved = "rose" if means.difference > 0 else "fell" if means.difference < 0 else "stayed"
        words = f"{name} {moved} from {' to '.join(_apart(means.base, means.tuned))}"
        if lost:
            interval = f"95% interval {rate.low:.0%} to {rate.high:.0%}"
            words += f" and wins only {rate.rate:.0%} of {rate.num} prompts, {interval}"
        found.append(Alarm("caution", f"{words}: is the total gained at its expense?"))
    return found


def _apart(first: float, second: float) -> tuple[str, str]:
    """Two numbers in few digits, with more where they would look alike and are not."""
    shown = number(first), number(second)
    return shown if shown[0] != shown[1] else apart(first, second)
