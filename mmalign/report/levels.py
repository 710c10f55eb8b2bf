"""A denoiser by noise level: errors, their rise against the reference and accuracy, on fixed noise."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.report.html import Html, element, section
from mmalign.report.plot import Axis, Line, figure
from mmalign.report.series import Metrics, Series

PREFIX = "level/"
_SHOWN = 4  # evaluations in one chart by level
_AXIS = Axis("noise level", 1.0, whole=False)


def is_level(name: str) -> bool:
    """True for metrics at one single noise level, "level/0.062/err_w"."""
    return name.startswith(PREFIX) and name.count("/") > 1 and name.split("/")[1][:1].isdigit()


def noise_levels(metrics: Metrics) -> Html | None:
    """Charts over the noise level and over training; None for a run that measured none."""
    at = _At(metrics)
    if not at.steps:
        return None
    last = max(at.steps)
    figures = [figure(*_errors(at), _AXIS)]
    if at.has("ref_err_w"):
        figures += [figure(*_rises(at), _AXIS), figure(*_accuracies(at), _AXIS, share=True)]
        figures += [
            figure(*chart, Axis("step", max(1, last)), share) for chart, share in _over_steps(metrics)
        ]
    pairs = metrics.heldout.get(f"{PREFIX}pairs")
    count = f"{int(pairs.last)} held-out pairs" if pairs is not None and pairs.values else "Held-out pairs"
    hint = (
        f"{count} at {len(at.levels)} fixed noise levels (0 is the clean picture, 1 pure noise), with the "
        "same noise at every evaluation: what moves is the model."
    )
    charts = element("div", {"class": "charts"}, *figures)
    return section("By noise level", element("p", {"class": "hint"}, hint), charts)


class _At:
    """Values of one evaluation over the levels."""

    def __init__(self, metrics: Metrics) -> None:
        self._found: dict[tuple[str, float], dict[float, float]] = {}
        for name in filter(is_level, metrics.heldout):
            _, level, what = name.split("/", 2)
            series = metrics.heldout[name]
            for step, value in zip(series.steps, series.values, strict=True):
                self._found.setdefault((what, step), {})[float(level)] = value
        self.steps = sorted({step for _, step in self._found})
        self.levels = sorted({level for one in self._found.values() for level in one})

    def has(self, what: str) -> bool:
        return any(name == what for name, _ in self._found)

    def curve(self, what: str, step: float) -> Series:
        values = self._found.get((what, step), {})
        levels = sorted(values)
        return Series(levels, [values[level] for level in levels])

    def rise(self, side: str, step: float) -> Series:
        """Error above the reference's, in percent of it."""
        ours, theirs = self.curve(f"err_{side}", step), self.curve(f"ref_err_{side}", step)
        known = dict(zip(theirs.steps, theirs.values, strict=True))
        kept = [(u, e, known[u]) for u, e in zip(ours.steps, ours.values, strict=True) if known.get(u)]
        return Series([u for u, _, _ in kept], [100 * (e - r) / r for _, e, r in kept])

    def some(self, steps: Sequence[float]) -> list[float]:
        """At most so many of the steps, evenly spread, the last among them."""
        count = min(_SHOWN, len(steps))
        return [steps[len(steps) - 1 - i * (len(steps) - 1) // max(1, count - 1)] for i in range(count)][::-1]


def _errors(at: _At) -> tuple[str, str, list[Line]]:
    first, last = at.steps[0], at.steps[-1]
    against = at.has("ref_err_w")
    words = "mean squared error at the end, and of the reference" if against else "mean squared error"
    lines = [
        Line("winner", at.curve("err_w", last), False, 0),
        Line("loser", at.curve("err_l", last), False, 1),
    ]
    if against:
        lines.append(Line("reference, winner", at.curve("ref_err_w", last), False, 2))
        lines.append(Line("reference, loser", at.curve("ref_err_l", last), False, 3))
    elif first != last:
        lines.append(Line("winner at the start", at.curve("err_w", first), False, 2))
        lines.append(Line("loser at the start", at.curve("err_l", first), False, 3))
    return "Error by noise level", words, lines


def _rises(at: _At) -> tuple[str, str, list[Line]]:
    words = "in percent of the reference's error; dashed: the loser. Winners above 0 are getting worse"
    lines = []
    for colour, step in enumerate(at.some([s for s in at.steps if s] or at.steps)):
        lines.append(Line(f"step {step:g}", at.rise("w", step), False, colour))
        lines.append(Line(f"step {step:g}, loser", at.rise("l", step), True, colour))
    return "Rise of the error by noise level", words, lines


def _accuracies(at: _At) -> tuple[str, str, list[Line]]:
    words = "share of pairs whose winner's error rose less than the loser's, ties one half"
    steps = at.some(at.steps)
    lines = [Line(f"step {s:g}", at.curve("implicit_acc", s), False, i) for i, s in enumerate(steps)]
    return "Accuracy by noise level", words, lines


def _over_steps(metrics: Metrics) -> list[tuple[tuple[str, str, list[Line]], bool]]:
    charts = []
    for title, words, names, share in (
        (
            "Rise of the error over training",
            "error minus the reference's, mean over levels; both above 0 and rising is a collapse, which a "
            "reference that follows the policy hides: then look at the rise since the start",
            {
                "Dw": "winner, Dw",
                "Dl": "loser, Dl",
                "rise_w": "winner, since the start",
                "rise_l": "loser, since the start",
            },
            False,
        ),
        (
            "Accuracy over training",
            "of single levels, and of a pair's mean errors over all levels",
            {"implicit_acc": "level by level", "pair_acc": "pair's mean"},
            True,
        ),
    ):
        held = {label: metrics.heldout.get(PREFIX + name) for name, label in names.items()}
        lines = [
            Line(label, series, False, colour)
            for colour, (label, series) in enumerate(held.items())
            if series is not None
        ]
        charts.append(((title, words, lines), share))
    return charts
