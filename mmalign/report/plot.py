"""Lines on common axes as inline SVG, with heading and legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mmalign.report.html import Html, element, join
from mmalign.report.series import Series

_WIDTH, _HEIGHT, _SHORT = 420, 230, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 34
_FEW = 5  # points: a shorter line has a mark at each, and a chart of such lines alone is less high
_MOST_POINTS = 60  # of a drawn line; a longer series is drawn as means of equal blocks, with their range


@dataclass(frozen=True)
class Axis:
    """What stands below a chart: from 0 to `last`, labelled at whole numbers only where `whole`."""

    name: str
    last: float
    whole: bool = True


@dataclass(frozen=True)
class Line:
    """One series of a chart; lines of one label share a colour unless the chart has a single label."""

    label: str
    series: Series
    heldout: bool
    colour: int


def figure(title: str, words: str, lines: Sequence[Line], axis: Axis, share: bool = False) -> Html:
    """Heading, SVG and legend; shares are drawn on 0..1."""
    heading = element("figcaption", None, element("b", None, title), " ", element("span", None, words))
    values = [value for line in lines for value in line.series.values]
    if not values:
        return element("figure", {"class": "chart"}, heading, element("p", None, "no finite value"))
    few = all(len(line.series.values) < _FEW for line in lines)
    frame = _Frame.around(values, axis, share, _SHORT if few else _HEIGHT)
    parts = [*_axes(frame), *(part for line in lines for part in _curve(frame, line))]
    box = {
        "viewBox": f"0 0 {_WIDTH} {frame.height}",
        "role": "img",
        "aria-label": f"{title} over {axis.name}s",
    }
    several = len({line.colour for line in lines if not line.heldout}) > 1
    named = [line for line in lines if not (several and line.heldout)]  # dashes are explained once
    legend = element("ul", {"class": "legend"}, *(_legend(line) for line in named))
    return element("figure", {"class": "chart"}, heading, element("svg", box, *parts), legend)


def number(value: float) -> str:
    """A number in at most four digits, with a true minus sign: 0.1234, 12.3, 1.2e-5."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}".replace("-", "\u2212")
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}".replace("-", "\u2212")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers within [low, high], about `wanted` many, in steps of 1, 2 or 5 powers of 10."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Labels of evenly spaced ticks with just the digits that tell them apart."""
    if len(values) < 2:
        return [number(value) for value in values]
    digits = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))
    if digits > 5 or max(map(abs, values)) >= 1e5:
        return [number(value) for value in values]
    return [f"{value:.{digits}f}".replace("-", "\u2212") for value in values]


# ---------------------------------------------------------------- drawing


@dataclass(frozen=True)
class _Frame:
    """The axes' ranges, and from values to places in the picture."""

    low: float
    high: float
    axis: Axis
    height: int = _HEIGHT

    @staticmethod
    def around(values: Sequence[float], axis: Axis, share: bool, height: int) -> _Frame:
        low, high = min(values), max(values)
        if share and low >= 0 and high <= 1:
            return _Frame(0.0, 1.0, axis, height)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return _Frame(low - room, high + room, axis, height)

    def x(self, step: float) -> float:
        return _LEFT + step / self.axis.last * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (self.high - value) / (self.high - self.low) * (self.height - _TOP - _BOTTOM)

    def at(self, step: float, value: float) -> str:
        return f"{self.x(step):.1f},{self.y(value):.1f}"


def _axes(frame: _Frame) -> list[Html]:
    parts = []
    wanted = 5 if frame.height == _HEIGHT else 3
    found = ticks(frame.low, frame.high, wanted)
    values = [0.0 if abs(v) < 1e-9 * (frame.high - frame.low) else v for v in found]
    for value, words in zip(values, tick_labels(values), strict=True):
        y = f"{frame.y(value):.1f}"
        ends = {"x1": str(_LEFT), "x2": str(_WIDTH - _RIGHT), "y1": y, "y2": y}
        parts.append(element("line", {**ends, "class": "grid" if value else "zero"}))
        place = {"x": str(_LEFT - 6), "y": y, "class": "ylabel"}
        parts.append(element("text", place, words))
    bottom = frame.height - _BOTTOM
    steps = [step for step in ticks(0, frame.axis.last) if step == int(step) or not frame.axis.whole]
    for step, words in zip(steps, tick_labels(steps), strict=True):
        place = {"x": f"{frame.x(step):.1f}", "y": str(bottom + 15), "class": "xlabel"}
        parts.append(element("text", place, f"{int(step)}" if frame.axis.whole else words))
    name = {"x": str((_LEFT + _WIDTH - _RIGHT) // 2), "y": str(frame.height - 4), "class": "xlabel"}
    return [*parts, element("text", name, frame.axis.name)]


def _curve(frame: _Frame, line: Line) -> list[Html]:
    style = f"c{line.colour}" + (" heldout" if line.heldout else "")
    parts = []
    for steps, values in _unbroken(line.series):
        size = 1 if line.heldout else math.ceil(len(values) / _MOST_POINTS)
        blocks = [(steps[i : i + size], values[i : i + size]) for i in range(0, len(values), size)]
        middle = [(sum(s) / len(s), sum(v) / len(v), min(v), max(v)) for s, v in blocks]
        if size > 1:
            edge = [frame.at(s, top) for s, _, _, top in middle]
            edge += [frame.at(s, bottom) for s, _, bottom, _ in reversed(middle)]
            parts.append(element("polygon", {"points": " ".join(edge), "class": f"band {style}"}))
        points = " ".join(frame.at(step, value) for step, value, _, _ in middle)
        parts.append(element("polyline", {"points": points, "class": style}))
        if line.heldout or len(line.series.values) < _FEW or len(middle) == 1:
            parts += [_dot(frame, step, value, style) for step, value, _, _ in middle]
    for step in line.series.broken:
        x, bottom = f"{frame.x(step):.1f}", frame.height - _BOTTOM
        place = {"x1": x, "x2": x, "y1": str(bottom - 8), "y2": str(bottom), "class": "broken"}
        parts.append(
            element("line", place, element("title", None, f"not finite at {frame.axis.name} {step:g}"))
        )
    return parts


def _dot(frame: _Frame, step: float, value: float, style: str) -> Html:
    place = {"cx": f"{frame.x(step):.1f}", "cy": f"{frame.y(value):.1f}", "r": "2.6", "class": f"dot {style}"}
    return element("circle", place)


def _unbroken(series: Series) -> list[tuple[list[float], list[float]]]:
    """The series cut where a value that is not finite lies between two steps."""
    points = list(zip(series.steps, series.values, strict=True))
    cuts = [0]
    for place, ((before, _), (after, _)) in enumerate(pairwise(points), 1):
        if any(before < step < after for step in series.broken):
            cuts.append(place)
    pieces = [points[start:end] for start, end in pairwise([*cuts, len(points)])]
    return [([step for step, _ in piece], [value for _, value in piece]) for piece in pieces if piece]


def _legend(line: Line) -> Html:
    style = f"c{line.colour}" + (" heldout" if line.heldout else "")
    swatch = [element("polyline", {"points": "1,6 27,6", "class": style})]
    if line.heldout:
        swatch.append(element("circle", {"cx": "14", "cy": "6", "r": "2.6", "class": f"dot {style}"}))
    sample = element("svg", {"viewBox": "0 0 28 12", "class": "swatch", "aria-hidden": "true"}, join(swatch))
    return element("li", None, sample, line.label)
