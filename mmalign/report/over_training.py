"""The same prompts answered over training: a column for every prompt, a row for every evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.evaluation.over_training import Snapshot
from mmalign.report.html import Child, Html, element, picture, section, table
from mmalign.types import Part

MAX_ROWS, MAX_COLUMNS = 8, 6
"""So many evaluations, evenly spread, the first and the last among them, and so many prompts are shown."""


def over_training(snapshots: Sequence[Snapshot]) -> Html | None:
    """One table for every run of snapshots of the same prompts; None without any."""
    if not snapshots:
        return None
    parts: list[Child] = []
    for same in _by_prompts(snapshots):
        shown = _some(same)
        prompts = same[0].texts[:MAX_COLUMNS]
        heads: list[Child] = ["", *(element("span", {"dir": "auto"}, text) for text in prompts)]
        rows: list[list[Child]] = [
            [f"step {one.step}", *(_cell(part, one) for part in one.answers[:MAX_COLUMNS])] for one in shown
        ]
        count = f"{len(shown)} of {len(same)} evaluations. " if len(shown) < len(same) else ""
        hint = f"{count}Every answer in a column starts from the same seed."
        parts += [element("p", {"class": "hint"}, hint), table(heads, rows, "grid-over-time")]
    return section("Over training", *parts)


def _by_prompts(snapshots: Sequence[Snapshot]) -> list[list[Snapshot]]:
    """Prompts may change where a run goes on with another `evaluation` section."""
    found: list[list[Snapshot]] = []
    for one in snapshots:
        if found and found[-1][0].ids == one.ids and found[-1][0].texts == one.texts:
            found[-1].append(one)
        else:
            found.append([one])
    return found


def _some(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    count = min(MAX_ROWS, len(snapshots))
    return [snapshots[i * (len(snapshots) - 1) // max(1, count - 1)] for i in range(count)]


def _cell(part: Part, snapshot: Snapshot) -> Html:
    if part.kind == "image":
        return picture(part.data, f"answer at step {snapshot.step}")
    text = str(part.data)
    return element("p", {"dir": "auto"}, text if text.strip() else "(empty answer)")
