"""Benchmarks as tables: both models' values, their difference and its interval, and the same by group."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.metrics._measured import Block, Measured, items
from mmalign.metrics._resampling import Figure
from mmalign.report.html import Child, Html, element, prose, section, table


def benchmarks(found: Sequence[Measured]) -> Html | None:
    """One table per metric, groups folded away; None without any."""
    if not found:
        return None
    parts: list[Child] = []
    for one in found:
        star = " *" if one.unchecked else ""
        step = "" if one.step is None else f", tuned at step {one.step}"
        parts.append(element("h3", None, f"{one.name}{star} ({items(one.whole.num)}{step})"))
        parts.append(element("p", {"class": "under"}, prose(one.words)))
        if one.manner:
            parts.append(element("p", {"class": "judge"}, prose(one.manner.capitalize() + ".")))
        parts.append(_table([one.whole], one))
        if len(one.blocks) > 1:
            head = element("summary", None, f"{one.name} by group")
            parts.append(element("details", None, head, _table(one.blocks[1:], one)))
        parts += [element("p", {"class": "judge"}, prose(note)) for note in one.notes]
        if one.unchecked:
            words = "* A judge's verdicts enter these figures; not checked against published numbers."
            parts.append(element("p", {"class": "judge"}, words))
    words = "Intervals: 95 %, items drawn anew 1000 times; for a difference, both models' answers together."
    return section("Benchmarks", *parts, element("p", {"class": "judge"}, words))


def _table(blocks: Sequence[Block], found: Measured) -> Html:
    grouped = bool(blocks[0].group)
    heads = [*(("group", "items") if grouped else ()), "value"]
    for side in found.sides:
        heads += [side, "95% interval"]
    heads += ["change", "95% interval"] if blocks[0].difference else []
    rows = [row for block in blocks for row in _rows(block, found, grouped)]
    return table(heads, rows, "numbers")


def _rows(block: Block, found: Measured, grouped: bool) -> list[tuple[str, ...]]:
    names = dict.fromkeys(name for values in block.sides.values() for name in values)
    rows = []
    for name in names:
        called = f"{name} (less is better)" if name in found.costs else name
        cells = [*((f"{block.kind}: {block.group}", str(block.num)) if grouped else ()), called]
        for values in block.sides.values():
            cells += _cells(values.get(name, Figure(None)), False)
        if block.difference:
            cells += _cells(block.difference.get(name, Figure(None)), True)
        rows.append(tuple(cells))
    return rows


def _cells(figure: Figure, signed: bool) -> tuple[str, str]:
    if figure.value is None:
        return "\u2013", "\u2013"
    interval = "\u2013"
    if figure.low is not None and figure.high is not None:
        interval = f"{_number(figure.low)} to {_number(figure.high)}"
    return ("+" if signed and figure.value > 0 else "") + _number(figure.value), interval


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "\u2212")
