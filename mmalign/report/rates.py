"""Win rates as tables: one row per score, and one per group of prompts."""

from __future__ import annotations

from collections.abc import Iterable

from mmalign.evaluation.comparison import Comparison
from mmalign.evaluation.win_rate import WinRate
from mmalign.report.html import Html, element, join, table

_HEADS = ("win rate", "95% interval", "resampled", "ties", "of the decided", "won / lost", "prompts")


def percent(share: float) -> str:
    """A share as whole percents."""
    return f"{100 * share:.0f}%"


def by_score(comparison: Comparison) -> Html | None:
    """The win rate on every score, the deciding one first; None where there is but one."""
    if len(comparison.names) < 2:
        return None
    rows = [(called(comparison, name), rate) for name, rate in comparison.win_rates.items()]
    return join([_rates("win rate on", rows), footnote()])


def by_group(comparison: Comparison) -> list[Html]:
    """For every judge's total the win rates within groups of prompts; empty without groups."""
    found: list[Html] = []
    for total in comparison.totals:
        rates = comparison.group_rates(total)
        if rates:
            rows = [(f"{kind}: {group}", rate) for (kind, group), rate in rates.items()]
            title = f"Groups of prompts, judged by {called(comparison, total)}"
            opened: dict[str, str] = {} if found else {"open": ""}
            note = [] if found or len(comparison.names) > 1 else [footnote()]
            head = element("summary", None, title)
            found.append(element("details", opened, head, _rates("group", rows), *note))
    return found


def footnote() -> Html:
    """What the columns of a table of win rates mean."""
    words = (
        "A tie counts one half, and its Wilson interval takes every prompt for a yes or no. Resampled: the "
        "95% interval of the same rate when the prompts are drawn anew, with replacement, which knows of "
        "ties. Of the decided: the share of won prompts among those that did not tie."
    )
    return element("p", {"class": "judge"}, words)


def called(comparison: Comparison, name: str) -> str:
    """A score's name for people; a star stands at those of a judge that nobody has checked."""
    words = f"{name} (less is better)" if name in comparison.costs else name
    unchecked = {judge.prefix for judge in comparison.judges if judge.unchecked}
    own = next((j.prefix for j in comparison.judges if j.prefix and name.startswith(j.prefix)), "")
    return f"{words} *" if own in unchecked else words


def _rates(first: str, rows: Iterable[tuple[str, WinRate]]) -> Html:
    return table((first, *_HEADS), [(name, *_cells(rate)) for name, rate in rows], "numbers")


def _cells(rate: WinRate) -> tuple[str, ...]:
    decided = "\u2013" if rate.decided_rate is None else percent(rate.decided_rate)
    low, high = rate.resampled
    one_way = rate.num in (rate.wins, rate.losses, rate.num - rate.wins - rate.losses)
    return (
        percent(rate.rate),
        f"{percent(rate.low)} to {percent(rate.high)}",
        "\u2013" if one_way else f"{percent(low)} to {percent(high)}",  # would be a point, and claim too much
        percent(rate.ties),
        decided,
        f"{rate.wins} / {rate.losses}",
        str(rate.num),
    )
