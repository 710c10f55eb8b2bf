"""The tables of shapes_vlm.py, written from its finished runs."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from _intervals import Range, Rows, changes, interval, points
from _vlm_asked import COUNTS
from _vlm_remarks import ABOUT, AGAINST, ATTENTION, REMARKS, SEVERAL
from _vlm_runs import BASE, Arm, Cell

SHARES = {
    "caption hallucinates": "captions that name an absent thing",
    "caption recall": "recall",
    "caption exact": "exact captions",
    "presence": "presence",
}
NATS = {"margin with": "margin", "margin without": "without picture", "picture": "of seeing"}
AMONG = {
    "several presence": "presence among several",
    "several caption exact": "exact captions among several",
    "several caption recall": "recall",
    "several caption hallucinates": "name what the picture does not show",
    "presence": "presence, one picture",
    "caption hallucinates": "name an absent thing, one picture",
}

LEANS = "nats to the right, base right", "nats to the right, base wrong"


def page(cells: Sequence[Cell], arms: Sequence[Arm], used: str) -> str:
    """The whole page."""
    made = f"Made by `scripts/bench/shapes_vlm.py` on one CPU thread with {used}."
    ran = [c for c in cells if c["split"] == "heldout" and "steps" in c]
    first = ran[0] if ran else {"steps": "?", "batch": "?"}
    about = ABOUT.format(steps=first["steps"], batch=first["batch"], remarks=REMARKS)
    parts = [about.rstrip(), made, "## Held-out pictures", table(cells, arms)]
    parts += ["## Against dpo", AGAINST.rstrip(), against(cells, arms, "dpo")]
    if any(arm.several and _runs(cells, arm.name) for arm in arms):
        parts += ["## One picture among several", SEVERAL.rstrip(), among(cells, arms)]
        parts += [
            ATTENTION.rstrip(),
            *(looked(cell["by pictures"]) for cell in cells if "by pictures" in cell),
        ]
    if any(c["split"] == "validation" for c in cells):
        parts += ["## Learning rates, on 64 validation scenes, one seed", selection(cells)]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- tables


def table(cells: Sequence[Cell], arms: Sequence[Arm]) -> str:
    """One row per run that is there, its base first."""
    head = ["run", "lr", *SHARES.values(), "words", *NATS.values(), "log p of the right", "seconds"]
    lines = [_line(head), _line(["---"] * len(head))]
    base = _runs(cells, BASE)
    for name in [BASE, *(arm.name for arm in arms if not arm.several)]:
        runs = _runs(cells, name)
        if runs and base:
            rates = "" if runs[0]["lr"] is None else f"{runs[0]['lr']:g}"
            fields = [name, rates, *(_share(runs, key) for key in SHARES)]
            fields += [f"{_mean(runs, 'caption words'):.1f}", *(_nats(runs, key) for key in NATS)]
            fields += [f"{_mean(runs, 'right'):+.2f}", _seconds(runs)]
            lines.append(_line(fields))
    return "\n".join(lines)


def against(cells: Sequence[Cell], arms: Sequence[Arm], other: str) -> str:
    """Differences from another run, seed by seed and prompt by prompt, of runs with as many seeds."""
    theirs = _runs(cells, other)
    head = ["run", *SHARES.values(), *NATS.values()]
    lines = [_line(head), _line(["---"] * len(head))]
    for arm in arms:
        ours = _runs(cells, arm.name)
        if arm.several or arm.name == other or len(ours) < 2 or len(ours) != len(theirs):
            continue
        fields = [arm.name]
        for key in (*SHARES, *NATS):
            before, after = ([_values(run, key) for run in side] for side in (theirs, ours))
            fields.append(points(changes(before, after)) if key in SHARES else _signed(_gaps(before, after)))
        lines.append(_line(fields))
    return "\n".join(lines)


def among(cells: Sequence[Cell], arms: Sequence[Arm]) -> str:
    """Runs that were asked about one picture among several, each after what it started from."""
    head = ["run", "lr", *AMONG.values(), *(f"presence, {n}" for n in COUNTS), "change of presence", *LEANS]
    lines = [_line(head), _line(["---"] * len(head))]
    shown: set[str] = set()
    for arm in arms:
        base, runs = _runs(cells, arm.base), _runs(cells, arm.name)
        if not arm.several or not runs or not base:
            continue
        for name, found in ((arm.base, base), (arm.name, runs)):
            if name not in shown:
                shown.add(name)
                lines.append(_line(_among_row(name, found, base)))
    return "\n".join(lines)


def looked(counts: Mapping[str, Mapping[str, float]]) -> str:
    """What attention tells of right and wrong answers, by number of pictures."""
    head = ["pictures", "questions", "wrong answers", "share, right answers", "share, wrong answers"]
    head += ["a right one's is larger", "above the paper's threshold"]
    lines = [_line(head), _line(["---"] * len(head))]
    for count, own in counts.items():
        fields = [count, f"{own['questions']:.0f}", f"{own['wrong']:.0f}"]
        fields += [f"{own[key]:.1%}" for key in ("share of right", "share of wrong", "larger")]
        lines.append(_line([*fields, f"{own['above']:.0f}"]))
    return "\n".join(lines)


def _among_row(name: str, runs: Sequence[Cell], base: Sequence[Cell]) -> list[str]:
    key = "several presence"
    rates = "" if runs[0]["lr"] is None else f"{runs[0]['lr']:g}"
    fields = [name.removeprefix("several: "), rates, *(_share(runs, key) for key in AMONG)]
    for place in range(len(COUNTS)):
        fields.append(f"{100 * statistics.fmean(v for r in runs for v in r[key][place :: len(COUNTS)]):.0f}%")
    told = changes([base[0][key]] * len(runs), [run[key] for run in runs])
    fields.append("" if runs[0]["lr"] is None else points(told))
    return fields + [_leaning(runs, base[0], was) for was in (1, 0)]


def _leaning(runs: Sequence[Cell], base: Cell, was: int) -> str:
    """How far answers lean to the right one where the base's was right, or was not; of runs, the change."""
    if any("leaning" not in run for run in (base, *runs)):
        return ""
    places = [place for place, value in enumerate(base["several presence"]) if value == was]
    rows = [[run["leaning"][at] for at in places] for run in (base, *runs)]
    if runs[0]["lr"] is None:
        return f"{statistics.fmean(rows[0]):+.2f}"
    return _signed(_gaps(rows[:1] * len(runs), rows[1:]))


def selection(cells: Sequence[Cell]) -> str:
    """What was found on validation scenes at every rate tried."""
    own = [c for c in cells if c["split"] == "validation" and "steps" in c]
    head = ["objective", "lr", "caption score", "recall", "name an absent thing", "presence"]
    head += ["caption score among several", "presence among several"]
    lines = [_line(head), _line(["---"] * len(head))]
    for cell in sorted(own, key=lambda c: (str(c["run"]), float(c["lr"]))):
        fields = [cell["run"], f"{cell['lr']:g}", f"{_mean([cell], 'caption score'):.3f}"]
        keys = ("caption recall", "caption hallucinates", "presence")
        fields += [f"{_mean([cell], key):.1%}" for key in keys]
        told = ["", ""]
        if "several presence" in cell:
            told = [
                f"{_mean([cell], 'several caption score'):.3f}",
                f"{_mean([cell], 'several presence'):.1%}",
            ]
        lines.append(_line([*fields, *told]))
    return "\n".join(lines)


# ---------------------------------------------------------------- cells


def _line(fields: Iterable[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _runs(cells: Sequence[Cell], name: str) -> list[Cell]:
    own = [c for c in cells if (c["split"], c["run"]) == ("heldout", name)]
    return sorted(own, key=lambda c: int(c["seed"]))


def _values(run: Cell, key: str) -> list[float]:
    """A figure by prompt; `picture` is the part of the margin that seeing brings."""
    if key == "picture":
        return [a - b for a, b in zip(run["margin with"], run["margin without"], strict=True)]
    found: list[float] = run[key]
    return found


def _share(runs: Sequence[Cell], key: str) -> str:
    """Such as "12.3% [10.0, 14.9] (12/13/12)"."""
    rows = [_values(run, key) for run in runs]
    middle, low, high = (100 * value for value in interval(rows))
    seeds = "/".join(f"{100 * statistics.fmean(row):.0f}" for row in rows)
    return f"{middle:.1f}% [{low:.1f}, {high:.1f}]" + (f" ({seeds})" if len(rows) > 1 else "")


def _nats(runs: Sequence[Cell], key: str) -> str:
    middle, low, high = interval([_values(run, key) for run in runs])
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


def _gaps(before: Rows, after: Rows) -> Range:
    pairs = zip(before, after, strict=True)
    return interval([[a - b for b, a in zip(old, new, strict=True)] for old, new in pairs])


def _signed(values: Range) -> str:
    return f"{values[0]:+.2f} [{values[1]:+.2f}, {values[2]:+.2f}]"


def _mean(runs: Sequence[Cell], key: str) -> float:
    return statistics.fmean(value for run in runs for value in run[key])


def _seconds(runs: Sequence[Cell]) -> str:
    """Of one run, on the processor."""
    return f"{statistics.fmean(r['cpu_seconds'] for r in runs):.0f}" if "cpu_seconds" in runs[0] else ""
