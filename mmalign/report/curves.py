"""Which curves go together: one chart per family of metrics, train and held-out on the same axes.

The winner has the first colour and the loser the second, in every chart that has both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mmalign.report.html import Html
from mmalign.report.levels import PREFIX
from mmalign.report.plot import Axis, Line, figure
from mmalign.report.series import Metrics, Series

_MOST_LABELS = 6  # of one chart: as many as there are colours

_KNOWN: dict[str, tuple[str, str]] = {
    "loss": ("Loss", "of the objective, mean over samples"),
    "implicit_acc": (
        "Implicit accuracy",
        "share of pairs whose chosen side has the larger reward, ties one half",
    ),
    "accuracy": (
        "Accuracy",
        "share of pairs whose chosen side has the larger reward, ties count as wrong; no point where all "
        "pairs tie, as at the start",
    ),
    "reward/margin": ("Reward margin", "implicit reward of chosen minus rejected"),
    "reward": ("Implicit reward", "beta times the log-ratio to the reference, by role"),
    "seeing": (
        "Margin with and without the picture",
        "log-likelihood of chosen minus rejected; image_share is the part that goes with pictures and clips",
    ),
    "seeing_ranking": (
        "Ranking with and without the picture",
        "share of pairs whose chosen side is the likelier one, with and without pictures and clips",
    ),
    "image_margin": ("Picture margin", "reward of chosen under its own picture minus under the spoilt one"),
    "image_accuracy": ("Picture accuracy", "share of rows with a picture margin above 0"),
    "bdhs_margin": ("Blind margin", "reward of chosen minus that of the answer written blind"),
    "bdhs_accuracy": ("Blind accuracy", "share of pairs with a blind margin above 0"),
    "own_margin": ("Own margin", "reward of chosen minus that of the model's own answer to a spoilt picture"),
    "own_accuracy": ("Own accuracy", "share of pairs with an own margin above 0"),
    "anchor_accuracy": ("Anchor", "share of rows whose chosen reward is above delta"),
    "chosen_falling": ("Chosen falling", "share of chosen responses less likely than under the reference"),
    "logp_change": ("Change of log-likelihood", "against the reference, by role"),
    "error": ("Denoising error", "mean squared error of policy and reference, by role"),
    "rise": (
        "Rise of the error",
        "above the reference's on the same noise, of the winner (Dw) and the loser (Dl)",
    ),
    "z": ("Logit", "the reward margin inside the objective: mean and deviation over pairs"),
    "grad_weight": ("Gradient weight", "sigmoid(\u2212z), the share of a pair's gradient that is left"),
    "logp": ("Log-likelihood", "of whole responses, by role"),
    "length": ("Length", "scored units of a response, by role"),
    "implicit_acc by noise": ("Accuracy by noise level", "quarters of the schedule, t1 has the least noise"),
    "nll": ("Negative log-likelihood", "of the responses that sft trains on, as its loss counts it"),
    "round": ("Judge's score", "mean over all answers sampled for rounds since the point before"),
    "grad_norm": ("Gradient norm", "before clipping"),
    "lr": ("Learning rate", "as the schedule gave it"),
}
_SHARES = (  # drawn on 0..1
    "implicit_acc",
    "accuracy",
    "chosen_falling",
    "implicit_acc by noise",
    "seeing_ranking",
    "image_accuracy",
    "bdhs_accuracy",
    "own_accuracy",
    "anchor_accuracy",
)
_COLOURS = {"chosen": 0, "Dw": 0, "rejected": 1, "Dl": 1}
_CALLED = {"Dw": "winner, Dw", "Dl": "loser, Dl"}
_TOGETHER = {
    "Dw": "rise",
    "Dl": "rise",
    "margin_with_image": "seeing",
    "margin_without_image": "seeing",
    "image_share": "seeing",
    "ranking_with_image": "seeing_ranking",
    "ranking_without_image": "seeing_ranking",
}


@dataclass(frozen=True)
class Chart:
    """Lines on common axes."""

    name: str
    lines: tuple[Line, ...]
    same: tuple[str, ...] = ()  # other metrics with the very same curves
    term: bool = False  # of one part of a summed objective


def charts(metrics: Metrics) -> list[Chart]:
    """Every curve of a run but those at fixed noise levels, sorted into charts: the known families first, any
    other metric after them."""
    metrics = decided(metrics)
    families: dict[str, list[str]] = {}
    for name in (name for name in metrics.names if not name.startswith(PREFIX)):
        families.setdefault(_family(name), []).append(name)
    known = [family for family in _KNOWN if family in families]
    found: list[Chart] = []
    alone: dict[_Curves, int] = {}  # charts of a single metric, by their points
    for family in [*known, *(family for family in sorted(families) if family not in _KNOWN)]:
        names = families[family]
        points = _points(metrics, names[0])
        twin = next((place for other, place in alone.items() if _within(points, other)), None)
        if len(names) == 1 and twin is not None:
            found[twin] = replace(found[twin], same=(*found[twin].same, family))
            continue
        if len(names) == 1 and _moves(points):
            alone[points] = len(found)
        for start in range(0, len(names), _MOST_LABELS):
            title = family if start == 0 else f"{family} ({start // _MOST_LABELS + 1})"
            lines = tuple(_lines(metrics, names[start : start + _MOST_LABELS]))
            found.append(Chart(title, lines, term=f"{family}/loss" in names))
    return found


def decided(metrics: Metrics) -> Metrics:
    """The same curves without points of `accuracy` at which all pairs tie: it counts ties as wrong, and would
    read 0 where nothing has been learned yet."""
    return Metrics(*(_decided(group) for group in (metrics.train, metrics.heldout)))


def _decided(group: Mapping[str, Series]) -> dict[str, Series]:
    found, fair = dict(group), group.get("implicit_acc", Series())
    tied = {step for step, value in zip(fair.steps, fair.values, strict=True) if value == 0.5}
    if series := found.pop("accuracy", None):
        points = zip(series.steps, series.values, strict=True)
        kept = [(step, value) for step, value in points if value > 0 or step not in tied]
        if kept or series.broken:
            found["accuracy"] = Series([s for s, _ in kept], [v for _, v in kept], series.broken)
    return found


def draw(chart: Chart, last_step: float) -> Html:
    """One chart as a figure: heading, SVG whose x axis runs from 0 to `last_step`, and legend."""
    title, words = _KNOWN.get(chart.name, (chart.name, ""))
    if chart.term and not words:
        title, words = f"Part {chart.name}", "of a summed objective, before its weight"
    if chart.same:
        words += f"; the same curve: {', '.join(_KNOWN.get(name, (name,))[0] for name in chart.same)}"
    return figure(title, words, chart.lines, Axis("step", max(1, last_step)), chart.name in _SHARES)


# ---------------------------------------------------------------- which lines go together


_Curves = tuple[tuple[tuple[float, float], ...], ...]


def _points(metrics: Metrics, name: str) -> _Curves:
    """The points of a metric in training and on held-out rows."""
    both = (group.get(name, Series()) for group in (metrics.train, metrics.heldout))
    return tuple(tuple(zip(one.steps, one.values, strict=True)) for one in both)


def _within(points: _Curves, others: _Curves) -> bool:
    """True if there are points and all of them are those of another metric."""
    pairs = zip(points, others, strict=True)
    return any(points) and all(set(ours) <= set(theirs) for ours, theirs in pairs)


def _moves(points: _Curves) -> bool:
    """Flat curves may be equal by chance; they are told apart."""
    return len({value for curve in points for _, value in curve}) > 1


def _colours(names: Sequence[str]) -> dict[str, int]:
    """A colour for every metric of a chart: the winner's and the loser's are the same in all of them."""
    fixed = {name: _COLOURS[role] for name in names if (role := _role(name)) in _COLOURS}
    free = (place for place in range(len(names) + 2) if place not in fixed.values())
    return {name: fixed[name] if name in fixed else next(free) for name in names}


def _role(name: str) -> str:
    head, slash, rest = name.partition("/")
    return name if not slash else "" if head == "reference_error" else rest


def _family(name: str) -> str:
    head, slash, rest = name.partition("/")
    if not slash or name == "reward/margin":
        return _TOGETHER.get(name, name)
    if head == "implicit_acc" and rest[:1] == "t":
        return "implicit_acc by noise"
    return "error" if head == "reference_error" else head


def _lines(metrics: Metrics, names: Sequence[str]) -> list[Line]:
    lines = []
    colours = _colours(names)
    for name in sorted(names, key=lambda one: _COLOURS.get(one, 0)):
        head, slash, rest = name.partition("/")
        label = "" if len(names) == 1 else _CALLED.get(name, rest or name)
        if head == "reference_error" and slash:
            label = f"reference, {rest}"
        for heldout, group in ((False, metrics.train), (True, metrics.heldout)):
            if name in group:
                words = [label, "held-out" if heldout else "" if label else "training"]
                colour = int(heldout) if not label else colours[name]
                lines.append(Line(", ".join(word for word in words if word), group[name], heldout, colour))
    return lines
