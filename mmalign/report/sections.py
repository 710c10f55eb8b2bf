"""Sections of a report from config, record and curves to markup; None where there is nothing to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmalign.evaluation.changes import VISIBLE, Changes, apart
from mmalign.evaluation.comparison import TOTAL, Comparison, JudgeNote
from mmalign.evaluation.win_rate import WinRate
from mmalign.report import rates
from mmalign.report.alarms import Alarm
from mmalign.report.curves import charts, decided, draw
from mmalign.report.html import Child, Html, element, join, prose, section, table
from mmalign.report.levels import is_level
from mmalign.report.plot import number
from mmalign.report.rates import percent as _percent
from mmalign.report.series import Metrics
from mmalign.training.console import WARNING
from mmalign.training.record import RunRecord

# ---------------------------------------------------------------- header and headline


def title_of(config: Mapping[str, Any]) -> str:
    """The run in four words: its objective on its adapter."""
    terms = config.get("objective")
    listed = terms if isinstance(terms, list) else [terms]
    names = [str(term.get("name", "?")) for term in listed if isinstance(term, Mapping)] or ["?"]
    return f"{' + '.join(names)} on {_mapping(config, 'model').get('adapter', '?')}"


def header(config: Mapping[str, Any], record: RunRecord) -> Html:
    """What was trained, how, for how long and on what."""
    train, lora = _mapping(config, "train"), _mapping(config, "lora")
    facts = [
        ("status", record.status),
        ("steps", str(record.step)),
        ("batch", str(train.get("batch", "?"))),
        ("learning rate", str(train.get("lr", "?"))),
        ("trains", f"LoRA of rank {lora.get('rank', '?')}" if lora else "all weights"),
        ("reference", _reference(config, record)),
        ("seed", str(record.seed)),
        ("hardware", record.device + (f", {record.processes} processes" if record.processes > 1 else "")),
    ]
    objective = config.get("objective")
    if isinstance(objective, Mapping):
        facts[1:1] = [(str(k), str(v)) for k, v in objective.items() if k != "name" and _is_plain(v)]
    elif isinstance(objective, list):
        facts[1:1] = [_part(term) for term in objective if isinstance(term, Mapping)]
    listed = [
        element("div", None, element("dt", None, name), element("dd", None, value)) for name, value in facts
    ]
    return element(
        "header",
        None,
        element("p", {"class": "kicker"}, "mmalign run"),
        element("h1", None, title_of(config)),
        element("dl", {"class": "facts"}, *listed),
    )


def _part(term: Mapping[str, Any]) -> tuple[str, str]:
    """One part of a summed objective: its weight, and its own settings."""
    plain = {"weight": term.get("weight", 1.0), **{k: v for k, v in term.items() if k != "weight"}}
    told = [f"{name} {value}" for name, value in plain.items() if name != "name" and _is_plain(value)]
    return str(term.get("name", "?")), ", ".join(told)


def _reference(config: Mapping[str, Any], record: RunRecord) -> str:
    """The reference by name. What `auto` became is in the run's notes; without such a note it took none."""
    wanted = str(_mapping(config, "reference").get("name", "auto"))
    named = [note.removeprefix("reference: ") for note in record.notes if note.startswith("reference: ")]
    return wanted if wanted != "auto" else next((name for name in named if name.isidentifier()), "none")


def headline(metrics: Metrics, comparison: Comparison | None) -> Html | None:
    """The figures to quote: win rate, ties, held-out curves' ends, and the mean scores before and after."""
    tiles = []
    if comparison is not None and comparison.win_rate is not None:
        tiles = [*_rate_tiles(comparison.win_rate), _visible_tile(comparison.changes[TOTAL])]
    for name, words in (("implicit_acc", "Held-out implicit accuracy"), ("loss", "Held-out loss")):
        series = metrics.heldout.get(name)
        if series is not None and series.values:
            show = _percent if name == "implicit_acc" else number
            tiles.append(_tile(words, show(series.last), f"{show(series.first)} at the first evaluation"))
    parts: list[Child] = [element("div", {"class": "tiles"}, *tiles)] if tiles else []
    if comparison is not None and comparison.means:
        parts += [_mean_scores(comparison), _changes(comparison)]
        parts += [part for part in (rates.by_score(comparison), *rates.by_group(comparison)) if part]
    if comparison is not None:
        parts += [element("p", {"class": "judge"}, prose(_judge_line(note))) for note in comparison.judges]
        parts += [element("p", {"class": "judge"}, line) for line in _unread_lines(comparison)]
    return section("Result", *parts) if parts else None


def _judge_line(note: JudgeNote) -> str:
    said = f"Scored by {note.name}: {note.words}" if note.words else f"Scored by {note.name}."
    return f"* {said} Not checked against published numbers." if note.unchecked else said


def _unread_lines(comparison: Comparison) -> list[str]:
    return [
        f"{count} of the {2 * len(comparison.rows)} verdicts of {name} could not be read; prompts with such "
        "a verdict do not count in its figures."
        for name, count in comparison.unread.items()
    ]


def _rate_tiles(rate: WinRate) -> list[Html]:
    interval = f"95% interval {_percent(rate.low)} to {_percent(rate.high)}, {rate.num} prompts"
    decided = "no prompt was decided"
    if rate.decided_rate is not None:
        decided = f"{_percent(rate.decided_rate)} of the {rate.wins + rate.losses} decided prompts won"
    counted = f"{rate.wins} won, {rate.losses} lost; a tie counts one half"
    return [
        _tile("Win rate of tuned over base", _percent(rate.rate), interval, _interval_bar(rate), counted),
        _tile("Ties", _percent(rate.ties), decided),
    ]


def _visible_tile(found: Changes) -> Html:
    """The share of prompts on which the tuned model wins by a size that can be seen."""
    lost = f"{found.losses} visibly lost; visible is a change above {_score(found.least)}"
    sure = f", 95% interval {_interval(found.low, found.high)}" if found.low is not None else ""
    middle = f"median change {_score(found.median)}{sure}"
    return _tile("Visible wins", _percent(found.gains / found.num), lost, middle)


def _tile(name: str, value: str, *below: Child) -> Html:
    small = [child if isinstance(child, Html) else element("p", None, child) for child in below]
    return element(
        "div", {"class": "tile"}, element("h3", None, name), element("strong", None, value), *small
    )


def _interval_bar(rate: WinRate) -> Html:
    """The interval on an axis from 0 to 100 %, with a line at 50 %."""
    x = {share: f"{4 + 192 * share:.1f}" for share in (rate.low, rate.rate, rate.high, 0.5)}
    verdict = "better" if rate.low > 0.5 else "worse" if rate.high < 0.5 else "open"
    parts = [
        element("line", {"x1": "4", "x2": "196", "y1": "10", "y2": "10", "class": "grid"}),
        element("line", {"x1": x[0.5], "x2": x[0.5], "y1": "2", "y2": "18", "class": "zero"}),
        element(
            "line",
            {"x1": x[rate.low], "x2": x[rate.high], "y1": "10", "y2": "10", "class": f"span {verdict}"},
        ),
        element("circle", {"cx": x[rate.rate], "cy": "10", "r": "4.5", "class": f"spot {verdict}"}),
        *(
            element("text", {"x": place, "y": "30", "class": anchor}, words)
            for place, anchor, words in (
                ("4", "first", "0%"),
                (x[0.5], "mid", "50%"),
                ("196", "last", "100%"),
            )
        ),
    ]
    box = {"viewBox": "0 0 200 34", "role": "img", "aria-label": "win rate with its interval"}
    return element("svg", {**box, "class": "bar"}, *parts)


def _mean_scores(comparison: Comparison) -> Html:
    rows = []
    for name, means in comparison.means.items():
        base, tuned = _score(means.base), _score(means.tuned)
        if base == tuned:
            base, tuned = apart(means.base, means.tuned)
        change = ("+" if means.difference > 0 else "") + _score(means.difference)
        interval = _interval(means.low, means.high)
        rows.append((rates.called(comparison, name), base, tuned, change, interval, str(means.num)))
    heads = ("mean score", "base", "tuned", "change", "95% interval", "prompts")
    return table(heads, rows, "numbers")


def _changes(comparison: Comparison) -> Html:
    """How large wins are: a win rate alone counts a hair's breadth like a mile."""
    rows = []
    for name, found in comparison.changes.items():
        counts = [f"{count} ({_percent(count / found.num)})" for count in (found.gains, found.losses)]
        sign = "+" if found.median > 0 else ""
        rows.append(
            (
                rates.called(comparison, name),
                sign + _score(found.median),
                _interval(found.low, found.high),
                _score(found.least),
                *counts,
                str(found.num),
            )
        )
    heads = (
        "change per prompt",
        "median",
        "95% interval",
        "visible above",
        "visible gains",
        "visible losses",
    )
    words = (
        f"Visible: a change above {VISIBLE:.0%} of the interquartile range that the base's scores have over "
        "the prompts; every change where that is 0. The median's interval is the sign test's."
    )
    return join([table((*heads, "prompts"), rows, "numbers"), element("p", {"class": "judge"}, words)])


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "\u2013"
    ends = _score(low), _score(high)
    return " to ".join(ends if ends[0] != ends[1] else apart(low, high))


# ---------------------------------------------------------------- warnings, curves


def warnings(alarms: Sequence[Alarm], notes: Sequence[str]) -> Html:
    """Findings first, the run's own warnings among them, then every choice and fallback it noted."""
    told = [note.removeprefix(WARNING) for note in notes if note.startswith(WARNING)]
    notes = [note for note in notes if not note.startswith(WARNING)]
    alarms = [*alarms, *(Alarm("caution", note) for note in told)]
    listed: list[Child] = [
        element("li", {"class": alarm.level}, element("b", None, alarm.level), " ", alarm.text)
        for alarm in alarms
    ]
    if not alarms:
        listed.append(
            element("li", {"class": "fine"}, element("b", None, "fine"), " no rule for warnings applies")
        )
    listed += [element("li", {"class": "note"}, element("b", None, "note"), " ", note) for note in notes]
    return section("Warnings and notes", element("ul", {"class": "findings"}, *listed))


def curves(metrics: Metrics) -> Html | None:
    """All charts, and the figures of the curves' ends."""
    metrics = decided(metrics)
    found = charts(metrics)
    if not found:
        return None
    every = [series for group in (metrics.train, metrics.heldout) for series in group.values()]
    last_step = max(step for series in every for step in (*series.steps, *series.broken))
    figures = [draw(chart, last_step) for chart in found]
    words = (
        "Dashed with dots: held-out rows, always on the same draws. Pale bands: range of what is averaged."
    )
    return section(
        "Curves",
        element("p", {"class": "hint"}, words),
        element("div", {"class": "charts"}, *figures),
        element("details", None, element("summary", None, "First and last values"), _ends(metrics)),
    )


def _ends(metrics: Metrics) -> Html:
    rows = []
    for name in (name for name in metrics.names if not is_level(name)):
        row = [name]
        for group in (metrics.train, metrics.heldout):
            series = group.get(name)
            known = series is not None and bool(series.values)
            row += [number(series.first), number(series.last)] if series is not None and known else ["", ""]
        rows.append(row)
    return table(("metric", "training, first", "last", "held-out, first", "last"), rows, "numbers")


# ---------------------------------------------------------------- the record


def origin(record: RunRecord) -> Html:
    """Data, counts and versions: what is needed to make the run again."""
    git = record.git
    rows = [("config", record.config_hash), ("threads", str(record.threads))]
    if git:
        rows.append(("commit", f"{git.get('commit')}{' with changes' if git.get('dirty') else ''}"))
    if record.resumed_at:
        rows.append(("taken up again at", ", ".join(f"step {step}" for step in record.resumed_at)))
    blocks = [
        _block("Run", rows),
        _block("Data", list(_flat("", record.data))),
        _block("Counted on the way", list(_flat("", record.skipped))),
        _block("Versions", list(_flat("", record.versions))),
    ]
    return section("Origin", element("div", {"class": "blocks"}, *(block for block in blocks if block)))


def resolved_config(text: str) -> Html:
    """The config with every default written out, as the run folder holds it."""
    return section("Resolved config", element("pre", None, text))


def _block(title: str, rows: Sequence[tuple[str, str]]) -> Html | None:
    if not rows:
        return None
    return element("div", None, element("h3", None, title), table((), rows))


def _flat(prefix: str, tree: Any) -> Iterator[tuple[str, str]]:
    """Nested mappings as dotted names with plain values."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), value)
    else:
        yield prefix, "\n".join(map(str, tree)) if isinstance(tree, list | tuple) else str(tree)


def _mapping(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tree.get(name)
    return found if isinstance(found, Mapping) else {}


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _score(value: float) -> str:
    """Three decimals, so that the digits of a column stand below each other, where that is enough."""
    return f"{value:.3f}".replace("-", "\u2212") if value == 0 or 1e-3 <= abs(value) < 1e4 else number(value)
